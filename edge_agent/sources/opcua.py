"""First stage of the line, protocol `opcua`: changes of a PLC's tags, from an OPC UA subscription, handed on as events.

One reconnect path: `readings` ends with SourceUnavailable and whoever runs the source opens it again. asyncua's own
`auto_reconnect` is left off, as it forgets for good each tag that the restarted server does not have yet.

A publish response is taken whole and queued whole, without a task or a queue entry for each value; that and asyncua's
decoder are all the processor time there is. Times in OPC UA count 100 ns, asyncua gives microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from asyncua import Client, ua
from pydantic import BaseModel, ConfigDict, Field, field_validator

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.opcua_security import SecuritySettings, read_credentials, secure
from edge_agent.source import BoundChannel, Event, Reading, SourceContext
from lab_contract.kit import ValueKind

# asyncua logs tracebacks of each lost connection, the highest level included; what counts is raised or counted here.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

BATCH = 500
"""Items in one request; a Siemens server answers BadTooManyOperations above 1000."""
KEEP_ALIVE_S = 1.0
"""How often a silent server says that it is there."""
SILENT_S = 3.0
"""Without a word for this long (or three of its own keep-alives) the server counts as gone."""
LIFETIME_S = 60.0
"""After this time without us the server forgets subscription and session; small PLCs have few of them."""
WATCHDOG_S = 1.5
"""Asking the server for its state this often, and giving it as long to answer, finds a frozen one within 3 s."""
QUEUE_S = 10.0
"""What the queue of an item holds: a workshop PC may be busy for seconds, and two publishing intervals are gone then."""
QUEUE_LEAST, QUEUE_MOST = 10, 500
"""The least for slow channels that change in bursts; the most for the memory of a small PLC."""
SHOWN = 5
"""Tags named in a fact; the counters have the number."""

OVERFLOW = 0x0480
"""InfoType DataValue with the Overflow bit (OPC 10000-4, 7.39): values were dropped in the server just before."""
SEVERITY = 0xC0000000
NODE_GONE = frozenset({ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NODE_ID = re.compile(r"(?:nsu=(?P<uri>[^;]+);)?(?P<id>[isgb]=.+)\Z", re.DOTALL)

ACTIONS = {
    ua.StatusCodes.BadUserAccessDenied: ("user", "expected a user and password that the server knows"),
    ua.StatusCodes.BadIdentityTokenRejected: ("user", "expected a user and password that the server knows"),
    ua.StatusCodes.BadIdentityTokenInvalid: ("user", "expected a kind of sign-in that the server takes"),
    ua.StatusCodes.BadSecurityPolicyRejected: ("policy", "expected a policy that the server takes"),
    ua.StatusCodes.BadSecurityModeRejected: ("mode", "expected a mode that the server takes"),
    ua.StatusCodes.BadSecurityChecksFailed: ("certificate", "trust this edge's certificate on the server"),
    ua.StatusCodes.BadCertificateUntrusted: ("certificate", "trust this edge's certificate on the server"),
    ua.StatusCodes.BadCertificateTimeInvalid: ("certificate", "expected one valid today, and right clocks"),
    ua.StatusCodes.BadCertificateInvalid: ("certificate", "expected one that the server can read"),
    ua.StatusCodes.BadCertificateUriInvalid: ("certificate", "expected one with the application's URI"),
    ua.StatusCodes.BadCertificateUseNotAllowed: ("certificate", "expected one for client authentication"),
}
"""What a person must do where the server refuses the edge; every other refusal may pass by itself."""


class OpcuaSettings(SecuritySettings):
    """Where the server is and how its tags are read.

    Addresses are browse paths in the namespace `namespace`, below `object`, itself a browse path below Objects.
    """

    endpoint: str = Field(pattern=r"^opc\.tcp://[^/@]+(/.*)?$")
    namespace: str = Field(min_length=1)
    object: str = Field(default="", description="browse path of the kit's object below Objects; empty: Objects itself")
    publishing_interval_ms: float = Field(default=50.0, ge=10, le=5000)
    timeout_s: float = Field(default=4.0, gt=0, le=60)
    retry_missing_s: float = Field(default=10.0, gt=0)
    queue_values: int = Field(
        default=20_000, ge=1000, description="values kept for a busy edge; older ones are dropped"
    )


class OpcuaAddress(BaseModel):
    """A tag: `node` is a browse path (`Line.State`) or a NodeId (`s=...`, `i=...`, `nsu=<namespace URI>;s=...`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    sampling_interval_ms: float | None = Field(default=None, gt=0)
    queue_size: int | None = Field(default=None, ge=1, description="values kept in the server between two publishes")

    @field_validator("node")
    @classmethod
    def _names_a_node(cls, node: str) -> str:
        if re.match(r"ns=\d", node):
            raise ValueError("expected nsu=<namespace URI>;..., as the index changes when the server restarts")
        if not NODE_ID.match(node) and not all(node.split(".")):
            raise ValueError("expected a browse path such as Line.State, or a NodeId such as s=... or nsu=URI;s=...")
        return node


@dataclass(slots=True, eq=False)
class _Item:
    """A tag in the subscription. `problem` says why it is not read now; it is tried again then."""

    handle: int
    channel: str
    kind: ValueKind
    address: OpcuaAddress
    sampling_ms: float
    names: dict[int, str] = field(default_factory=dict)
    monitored: int | None = None
    problem: str | None = None
    queue: int = 0
    revised_ms: float = 0.0
    revised_queue: int = 0

    @property
    def is_slowed(self) -> bool:
        """The server samples it more slowly than asked, beyond what rounding makes of it."""
        return self.revised_ms > self.sampling_ms * 1.01


class OpcuaSource:
    """Reads a server's tags. Counters only grow: `missing` and `slowed` count how often a tag was found so.

    How it is now stands in `facts`: the revised intervals and queues, and the tags that are missing.
    """

    Settings: ClassVar[type[BaseModel]] = OpcuaSettings
    Address: ClassVar[type[BaseModel]] = OpcuaAddress

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._settings = cast(OpcuaSettings, context.settings)
        self._items = [_item(i, bound, self._settings) for i, bound in enumerate(context.channels)]
        self._client: Client | None = None
        self._subscription = 0
        self._publishing_ms = self._settings.publishing_interval_ms
        self._silent_s = SILENT_S
        self._pending: deque[list[Event]] = deque()
        self._pending_values = 0
        self._arrived = asyncio.Event()
        self._lost: str | None = None
        self._retry_at = 0.0
        self.facts: dict[str, str] = {}
        self.counters = dict.fromkeys(
            ("values", "bad_quality", "overflow", "local_drops", "wrong_type", "missing", "slowed", "unclean_closes"), 0
        )

    async def open(self) -> None:
        """Connect, subscribe, watch every tag. Raises SourceUnavailable or SourceMisconfigured."""
        await self.close()
        settings = self._settings
        credentials = await asyncio.to_thread(read_credentials, settings, self._context.base)
        client = Client(settings.endpoint, timeout=settings.timeout_s, watchdog_intervall=WATCHDOG_S)
        client.name = client.description = "EPIP edge agent"
        client.session_timeout = int(LIFETIME_S * 1000)
        client.connection_lost_callback = self._on_lost
        self._client = client
        self._pending.clear()
        self._pending_values = 0
        self._lost = None
        self.facts.clear()
        try:
            with self._refusals():
                self.facts["server_certificate"] = await secure(client, settings, credentials)
                await self._connect(client)
                self.facts["security"] = str(settings)
                await self._subscribe(client)
                await self._watch(self._items)
            self._retry_at = asyncio.get_running_loop().time() + settings.retry_missing_s
        except BaseException:
            await self.close()
            raise

    async def readings(self) -> AsyncIterator[Reading]:
        """The events of one publish response at a time; an empty list says that the server lives and has no news."""
        loop = asyncio.get_running_loop()
        while True:
            await self._retry_missing()
            if self._pending:
                events = self._pending.popleft()
                self._pending_values -= len(events)
                yield events
                continue
            if self._lost is not None:
                raise SourceUnavailable(self._lost)
            self._arrived.clear()
            asleep = loop.time()
            try:
                async with asyncio.timeout(self._silent_s):
                    await self._arrived.wait()
            except TimeoutError:
                if loop.time() - asleep > self._silent_s + 1:
                    # It was this machine that stood still; what the server sent meanwhile is about to be read.
                    continue
                raise SourceUnavailable(f"{self._settings.endpoint}: silent for {self._silent_s:g} s") from None

    async def close(self) -> None:
        """Disconnect. Safe to call again."""
        client, self._client = self._client, None
        if client is None:
            return
        for item in self._items:
            item.monitored = None
        try:
            # A frozen server does not answer the farewell either.
            async with asyncio.timeout(min(2.0, self._settings.timeout_s)):
                await client.disconnect()
        except (TimeoutError, OSError, ua.UaError):
            self.counters["unclean_closes"] += 1
        finally:
            client.disconnect_socket()

    # Connection.

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what asyncua raises into what the caller does next."""
        endpoint = self._settings.endpoint
        try:
            yield
        except ua.UaStatusCodeError as error:
            status = ua.StatusCode(error.code).name
            if error.code in ACTIONS:
                place, expected = ACTIONS[error.code]
                raise SourceMisconfigured(place, f"{expected}: {endpoint} answers {status}") from None
            raise SourceUnavailable(f"{endpoint} answers {status}") from None
        except (ua.UaError, OSError, TimeoutError) as error:
            raise SourceUnavailable(f"{endpoint}: {str(error) or type(error).__name__}") from None

    async def _connect(self, client: Client) -> None:
        try:
            await client.connect()
        except (AssertionError, AttributeError):
            # asyncua 2.1 loses the status of a refused secure channel and stumbles over the missing answer.
            if self._settings.policy == "None":
                raise SourceUnavailable(f"{self._settings.endpoint} refuses the channel") from None
            raise SourceMisconfigured(
                "certificate", f"trust this edge's certificate on the server: {self._settings.endpoint} refuses it"
            ) from None

    async def _on_lost(self, error: Exception) -> None:
        # Called by asyncua's watchdog, which reads the server's state all WATCHDOG_S.
        self._lose(f"{self._settings.endpoint}: {str(error) or 'no answer to the watchdog'}")

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        self._arrived.set()

    # Subscription.

    async def _subscribe(self, client: Client) -> None:
        asked = self._settings.publishing_interval_ms
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=asked,
            RequestedMaxKeepAliveCount=max(1, round(KEEP_ALIVE_S * 1000 / asked)),
            RequestedLifetimeCount=max(10, round(LIFETIME_S * 1000 / asked)),
            MaxNotificationsPerPublish=10_000,
            PublishingEnabled=True,
            Priority=0,
        )
        result = await client.uaclient.session.create_subscription(parameters, self._on_publish)
        self._subscription = result.SubscriptionId
        self._publishing_ms = result.RevisedPublishingInterval
        keep_alive_s = result.RevisedMaxKeepAliveCount * result.RevisedPublishingInterval / 1000
        self._silent_s = max(SILENT_S, 3 * keep_alive_s)
        self.facts["publishing_interval_ms"] = _asked(result.RevisedPublishingInterval, asked)

    async def _retry_missing(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._retry_at or self._lost is not None:
            return
        self._retry_at = now + self._settings.retry_missing_s
        if missing := [item for item in self._items if item.problem]:
            with self._refusals():
                await self._watch(missing)

    async def _watch(self, items: Sequence[_Item]) -> None:
        """Resolve and subscribe these tags; each that the server does not have keeps its problem and is told."""
        client, clock = self._client, self._context.clock
        if client is None:
            raise SourceUnavailable("closed")
        try:
            kit = await client.get_namespace_index(self._settings.namespace)
        except ValueError:
            offered = ", ".join(await client.get_namespace_array())
            raise SourceUnavailable(
                f"namespace: expected one of the server's ({offered}), found {self._settings.namespace}"
            ) from None
        events: list[Event] = []
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            before = [item.problem for item in some]
            nodes = await self._resolve(client, some, kit)
            await self._monitor(client, nodes)
            now = clock.time_ns()
            for item, problem in zip(some, before, strict=True):
                if item.problem is not None and item.problem != problem:
                    self.counters["missing"] += 1
                    # A tag that is not there is a state of the channel, not silence.
                    events.append(Event(item.channel, now, None, None, ua.StatusCodes.BadNodeIdUnknown, None, now))
        if events:
            self._hand_on(events)
        self._report()

    async def _resolve(self, client: Client, items: Sequence[_Item], kit: int) -> list[tuple[_Item, ua.NodeId]]:
        """The NodeIds of the items that the server knows."""
        found: list[tuple[_Item, ua.NodeId]] = []
        by_path: list[tuple[_Item, ua.BrowsePath]] = []
        for item in items:
            match = NODE_ID.match(item.address.node)
            if match is None:
                by_path.append((item, self._browse_path(item.address.node, kit)))
                continue
            try:
                index = kit if match["uri"] is None else await client.get_namespace_index(match["uri"])
                found.append((item, ua.NodeId.from_string(f"ns={index};{match['id']}")))
            except ValueError:
                item.problem = "namespace not offered"
            except ua.UaStringParsingError:
                raise SourceMisconfigured(f"addresses.{item.channel}.node", "expected a NodeId") from None
        if by_path:
            paths = [path for _, path in by_path]
            results = await client.uaclient.session.translate_browsepaths_to_nodeids(paths)
            for (item, _), result in zip(by_path, results, strict=True):
                if result.StatusCode.is_good() and result.Targets:
                    found.append((item, result.Targets[0].TargetId))
                else:
                    item.problem = result.StatusCode.name
        return found

    def _browse_path(self, path: str, kit: int) -> ua.BrowsePath:
        place = f"{self._settings.object}.{path}" if self._settings.object else path
        elements = [
            ua.RelativePathElement(
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
                IsInverse=False,
                IncludeSubtypes=True,
                TargetName=ua.QualifiedName(name, kit),
            )
            for name in place.split(".")
        ]
        return ua.BrowsePath(ua.NodeId(ua.ObjectIds.ObjectsFolder), ua.RelativePath(elements))

    async def _monitor(self, client: Client, nodes: Sequence[tuple[_Item, ua.NodeId]]) -> None:
        if not nodes:
            return
        session = client.uaclient.session
        if old := [item.monitored for item, _ in nodes if item.monitored is not None]:
            # The tag was deleted and is back: its old item stays silent for good.
            deleted = ua.DeleteMonitoredItemsParameters(self._subscription, old)
            await session.delete_monitored_items(deleted)
        requests = []
        for item, node in nodes:
            # Asked for explicitly: 0 is without bound for some servers and 1 for others, which lose values then.
            item.queue = item.address.queue_size or _queue_size(self._publishing_ms, item.sampling_ms)
            requests.append(
                ua.MonitoredItemCreateRequest(
                    ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value),
                    MonitoringMode=ua.MonitoringMode.Reporting,
                    RequestedParameters=ua.MonitoringParameters(
                        ClientHandle=item.handle,
                        SamplingInterval=item.sampling_ms,
                        QueueSize=item.queue,
                        DiscardOldest=True,
                    ),
                )
            )
        parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=self._subscription,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ItemsToCreate=requests,
        )
        results = await session.create_monitored_items(parameters)
        for (item, _), result in zip(nodes, results, strict=True):
            if result.StatusCode.is_good():
                item.monitored = result.MonitoredItemId
                item.problem = None
                item.revised_ms = result.RevisedSamplingInterval
                item.revised_queue = result.RevisedQueueSize
                self.counters["slowed"] += item.is_slowed
            else:
                item.monitored = None
                item.problem = result.StatusCode.name

    def _report(self) -> None:
        missing = [f"{item.channel} {item.problem}" for item in self._items if item.problem]
        read = [item for item in self._items if not item.problem]
        slowed = [f"{item.channel} {_asked(item.revised_ms, item.sampling_ms)}" for item in read if item.is_slowed]
        shortened = [
            f"{item.channel} {_asked(item.revised_queue, item.queue)}"
            for item in read
            if item.revised_queue < item.queue
        ]
        self.facts["tags"] = f"{len(read)} of {len(self._items)}"
        self.facts["missing"] = _some(missing)
        self.facts["sampling_interval_ms"] = _some(slowed) if slowed else "as asked"
        self.facts["queue_size"] = _some(shortened) if shortened else "as asked"

    # Values.

    def _on_publish(self, result: ua.PublishResult) -> None:
        """One publish response; runs in asyncua's publish loop, so it never waits."""
        events: list[Event] = []
        for notification in result.NotificationMessage.NotificationData or ():
            if isinstance(notification, ua.DataChangeNotification):
                self._convert(notification.MonitoredItems, events)
            elif isinstance(notification, ua.StatusChangeNotification) and not notification.Status.is_good():
                self._lose(f"{self._settings.endpoint} ends the subscription: {notification.Status.name}")
        self._hand_on(events)

    def _hand_on(self, events: list[Event]) -> None:
        if events or not self._pending:
            self._pending.append(events)
            self._pending_values += len(events)
        while self._pending_values > self._settings.queue_values and len(self._pending) > 1:
            dropped = len(self._pending.popleft())
            self._pending_values -= dropped
            self.counters["local_drops"] += dropped
        self._arrived.set()

    def _convert(self, notifications: Sequence[ua.MonitoredItemNotification], events: list[Event]) -> None:
        now = self._context.clock.time_ns()
        items = self._items
        for notification in notifications:
            item = items[notification.ClientHandle]
            data = notification.Value
            status = data.StatusCode
            code = 0 if status is None else status.value
            if code & OVERFLOW == OVERFLOW:
                self.counters["overflow"] += 1
                code &= ~OVERFLOW
            t_server = _ns(data.ServerTimestamp)
            t = _ns(data.SourceTimestamp) or t_server or now
            value: float | None = None
            text: str | None = None
            if code & 0x80000000:
                if code in NODE_GONE:
                    item.problem = status.name
            else:
                raw = None if data.Value is None else data.Value.Value
                value, text = _value(item, raw)
                if value is None and text is None:
                    self.counters["wrong_type"] += 1
                    code = ua.StatusCodes.BadTypeMismatch
            if code & SEVERITY:
                self.counters["bad_quality"] += 1
            events.append(Event(item.channel, t, value, text, code, t_server, now))
        self.counters["values"] += len(notifications)


def _item(handle: int, bound: BoundChannel, settings: OpcuaSettings) -> _Item:
    address = cast(OpcuaAddress, bound.address)
    channel = bound.channel
    sampling = address.sampling_interval_ms
    if sampling is None:
        # Twice the rate of the tag, as sampling at the rate itself would miss a change whenever the phase slips.
        sampling = 500 / channel.rate_hz if channel.rate_hz else settings.publishing_interval_ms
    names = {value.value: value.id for value in channel.values}
    return _Item(handle, channel.id, channel.kind, address, sampling, names)


def _queue_size(publishing_ms: float, sampling_ms: float) -> int:
    """Values of QUEUE_S, within bounds; never fewer than two publishing intervals bring."""
    needed = 2 * math.ceil(publishing_ms / sampling_ms)
    wanted = math.ceil(QUEUE_S * 1000 / sampling_ms)
    return max(needed, min(max(wanted, QUEUE_LEAST), QUEUE_MOST))


def _value(item: _Item, raw: Any) -> tuple[float | None, str | None]:
    """Number and text of a value; both None where it is not of the channel's kind."""
    if item.kind is ValueKind.TEXT:
        text = raw.Text if isinstance(raw, ua.LocalizedText) else raw
        return None, text if isinstance(text, str) else None
    if not isinstance(raw, int | float) or not math.isfinite(raw):
        return None, None
    return float(raw), item.names.get(int(raw)) if item.names else None


def _ns(moment: datetime | None) -> int | None:
    """UTC ns; None where the server gave no time or the null one of 1601."""
    if moment is None:
        return None
    since = moment - EPOCH
    ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    return ns if ns > 0 else None


def _asked(revised: float, asked: float) -> str:
    return f"{revised:g}" if revised == asked else f"{revised:g} (asked {asked:g})"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - SHOWN
    return "; ".join([*texts[:SHOWN], f"and {more} more"] if more > 0 else texts) or "none"

"""First stage of the line, protocol `opcua`: changes of a PLC's tags, from an OPC UA subscription, handed on as events.

One reconnect path: `readings` ends with SourceUnavailable and whoever runs the source opens it again. asyncua's own
`auto_reconnect` is left off, as it forgets for good each tag that the restarted server does not have yet.

A publish response is decoded by `opcua_publish.py`, taken whole and queued whole, without a task or a queue entry for
each value: this is where the processor time of the edge goes. Times come with the 100 ns of OPC UA.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, cast

from asyncua import Client, ua
from pydantic import BaseModel, Field

from edge_agent.errors import SourceMisconfigured, SourceUnavailable
from edge_agent.opcua_publish import Change, DataChanges, take_over_publish
from edge_agent.opcua_security import ACTIONS, SecuritySettings, read_credentials, secure
from edge_agent.opcua_tags import NODE_ID, OpcuaAddress, Tag, queue_size, tag_of, value_of
from edge_agent.source import Event, Lost, Reading, SourceContext
from lab_contract.batch import GapReason

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
SHOWN = 5
"""Tags named in a fact; the counters have the number."""

OVERFLOW = 0x0480
"""InfoType DataValue with the Overflow bit (OPC 10000-4, 7.39): values were dropped in the server just before."""
SEVERITY = 0xC0000000
NODE_GONE = frozenset({ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid})


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


class OpcuaSource:
    """Reads a server's tags. Counters only grow: `missing` and `slowed` count how often a tag was found so.

    How it is now stands in `facts`: the revised intervals and queues, and the tags that are missing.
    """

    Settings: ClassVar[type[BaseModel]] = OpcuaSettings
    Address: ClassVar[type[BaseModel]] = OpcuaAddress

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._settings = cast(OpcuaSettings, context.settings)
        self._tags = [
            tag_of(i, bound, self._settings.publishing_interval_ms) for i, bound in enumerate(context.channels)
        ]
        self._client: Client | None = None
        self._subscription = 0
        self._publishing_ms = self._settings.publishing_interval_ms
        self._silent_s = SILENT_S
        self._pending: deque[list[Event]] = deque()
        self._pending_values = 0
        self._missing: Lost | None = None
        self._arrived = asyncio.Event()
        self._lost: str | None = None
        self._retry_at = 0.0
        self.facts: dict[str, str] = {}
        names = ("values", "bad_quality", "overflow", "local_drops", "wrong_type", "malformed", "repeated")
        self.counters = dict.fromkeys((*names, "missing", "slowed", "unclean_closes"), 0)

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
        self._missing = None
        self._lost = None
        self.facts.clear()
        try:
            with self._refusals():
                self.facts["server_certificate"] = await secure(client, settings, credentials)
                await self._connect(client)
                self.facts["security"] = str(settings)
                await self._subscribe(client)
                await self._watch(self._tags)
            self._retry_at = asyncio.get_running_loop().time() + settings.retry_missing_s
        except BaseException:
            await self.close()
            raise

    async def readings(self) -> AsyncIterator[Reading]:
        """The events of one publish response at a time; an empty list says that the server lives and has no news.

        Values that the server or a busy edge dropped come as Lost before what is left behind them.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._retry_missing()
            if self._missing is not None:
                missing, self._missing = self._missing, None
                yield missing
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
        for tag in self._tags:
            tag.monitored = tag.problem = None
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
        session = client.uaclient.session
        take_over_publish(session, self._malformed)
        result = await session.create_subscription(parameters, self._on_publish)
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
        if missing := [tag for tag in self._tags if tag.problem]:
            with self._refusals():
                await self._watch(missing)

    async def _watch(self, tags: Sequence[Tag]) -> None:
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
        for start in range(0, len(tags), BATCH):
            some = tags[start : start + BATCH]
            before = [tag.problem for tag in some]
            nodes = await self._resolve(client, some, kit)
            await self._monitor(client, nodes)
            now = clock.time_ns()
            for tag, problem in zip(some, before, strict=True):
                if tag.problem is not None and tag.problem != problem:
                    self.counters["missing"] += 1
                    # A tag that is not there is a state of the channel, not silence.
                    events.append(Event(tag.channel, now, None, None, ua.StatusCodes.BadNodeIdUnknown, None, now))
        if events:
            self._hand_on(events)
        self._report()

    async def _resolve(self, client: Client, tags: Sequence[Tag], kit: int) -> list[tuple[Tag, ua.NodeId]]:
        """The NodeIds of the tags that the server knows."""
        found: list[tuple[Tag, ua.NodeId]] = []
        by_path: list[tuple[Tag, ua.BrowsePath]] = []
        for tag in tags:
            match = NODE_ID.match(tag.address.node)
            if match is None:
                by_path.append((tag, self._browse_path(tag.address.node, kit)))
                continue
            try:
                index = kit if match["uri"] is None else await client.get_namespace_index(match["uri"])
                found.append((tag, ua.NodeId.from_string(f"ns={index};{match['id']}")))
            except ValueError:
                tag.problem = "namespace not offered"
            except ua.UaStringParsingError:
                raise SourceMisconfigured(f"addresses.{tag.channel}.node", "expected a NodeId") from None
        if by_path:
            paths = [path for _, path in by_path]
            results = await client.uaclient.session.translate_browsepaths_to_nodeids(paths)
            for (tag, _), result in zip(by_path, results, strict=True):
                if result.StatusCode.is_good() and result.Targets:
                    found.append((tag, result.Targets[0].TargetId))
                else:
                    tag.problem = result.StatusCode.name
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

    async def _monitor(self, client: Client, nodes: Sequence[tuple[Tag, ua.NodeId]]) -> None:
        if not nodes:
            return
        session = client.uaclient.session
        if old := [tag.monitored for tag, _ in nodes if tag.monitored is not None]:
            # The tag was deleted and is back: its old monitored item stays silent for good.
            deleted = ua.DeleteMonitoredItemsParameters(self._subscription, old)
            await session.delete_monitored_items(deleted)
        requests = []
        for tag, node in nodes:
            # Asked for explicitly: 0 is without bound for some servers and 1 for others, which lose values then.
            tag.queue = tag.address.queue_size or queue_size(self._publishing_ms, tag.expected_ms)
            requests.append(
                ua.MonitoredItemCreateRequest(
                    ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value),
                    MonitoringMode=ua.MonitoringMode.Reporting,
                    RequestedParameters=ua.MonitoringParameters(
                        ClientHandle=tag.handle,
                        SamplingInterval=tag.sampling_ms,
                        QueueSize=tag.queue,
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
        for (tag, _), result in zip(nodes, results, strict=True):
            if result.StatusCode.is_good():
                tag.monitored = result.MonitoredItemId
                tag.problem = None
                tag.last = None  # after a break its value is told anew
                tag.revised_ms = result.RevisedSamplingInterval
                tag.revised_queue = result.RevisedQueueSize
                self.counters["slowed"] += tag.is_slowed
            else:
                tag.monitored = None
                tag.problem = result.StatusCode.name

    def _report(self) -> None:
        missing = [f"{tag.channel} {tag.problem}" for tag in self._tags if tag.problem]
        read = [tag for tag in self._tags if not tag.problem]
        slowed = [f"{tag.channel} {_asked(tag.revised_ms, tag.sampling_ms)}" for tag in read if tag.is_slowed]
        shortened = [
            f"{tag.channel} {_asked(tag.revised_queue, tag.queue)}" for tag in read if tag.revised_queue < tag.queue
        ]
        self.facts["tags"] = f"{len(read)} of {len(self._tags)}"
        self.facts["missing"] = _some(missing)
        self.facts["sampling_interval_ms"] = _some(slowed) if slowed else "as asked"
        self.facts["queue_size"] = _some(shortened) if shortened else "as asked"

    # Values.

    def _on_publish(self, result: ua.PublishResult) -> None:
        """One publish response; runs in asyncua's publish loop, so it never waits."""
        events: list[Event] = []
        for notification in result.NotificationMessage.NotificationData or ():
            if isinstance(notification, DataChanges):
                self._convert(notification.changes, events)
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
            self._miss(dropped)
        self._arrived.set()

    def _miss(self, count: int | None) -> None:
        """Values are missing before what waits; None: nobody knows how many."""
        if self._missing is not None:
            before = self._missing.count
            count = None if count is None or before is None else before + count
        self._missing = Lost(GapReason.OVERFLOW, count)

    def _malformed(self) -> None:
        self.counters["malformed"] += 1

    def _convert(self, changes: Sequence[Change], events: list[Event]) -> None:
        now = self._context.clock.time_ns()
        tags = self._tags
        for handle, raw, code, source, t_server in changes:
            if handle >= len(tags):
                self.counters["malformed"] += 1
                continue
            tag = tags[handle]
            if code & OVERFLOW == OVERFLOW:
                self.counters["overflow"] += 1
                self._miss(None)
                code &= ~OVERFLOW
            t = source or t_server or now
            value: float | None = None
            text: str | None = None
            if code & 0x80000000:
                if code in NODE_GONE:
                    tag.problem = ua.StatusCode(code).name
            else:
                value, text = value_of(tag, raw)
                if value is None and text is None:
                    self.counters["wrong_type"] += 1
                    code = ua.StatusCodes.BadTypeMismatch
            if code & SEVERITY:
                self.counters["bad_quality"] += 1
            if not tag.moves(value, code):
                self.counters["repeated"] += 1
                continue
            events.append(Event(tag.channel, t, value, text, code, t_server, now))
        self.counters["values"] += len(changes)


def _asked(revised: float, asked: float) -> str:
    return f"{revised:g}" if revised == asked else f"{revised:g} (asked {asked:g})"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - SHOWN
    return "; ".join([*texts[:SHOWN], f"and {more} more"] if more > 0 else texts) or "none"

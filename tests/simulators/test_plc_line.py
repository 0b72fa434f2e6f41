"""The simulated PLC line behaves like one: parts travel, switches tell the truth, what is unsafe is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from asyncua import Client, Node, ua
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.plc_line import PlcLineSimulator
from simulators.plc_model import NotAllowed, PlcLineModel
from simulators.plc_parts import Mode, PartType, State
from simulators.plc_stations import Fault
from tests.opcua_parts import PLC_LINE, until

DT = 0.05


def run_until(model: PlcLineModel, condition: Callable[[], bool], within_s: float = 600) -> None:
    end = model.time + within_s
    while not condition():
        assert model.time < end, f"not within {within_s} s; {model.state.name}, {model.values()}"
        model.step(DT)


def idle(model: PlcLineModel) -> PlcLineModel:
    model.reset()
    run_until(model, lambda: model.state is State.IDLE)
    return model


def running(model: PlcLineModel) -> PlcLineModel:
    idle(model).start()
    run_until(model, lambda: model.state is State.EXECUTE)
    return model


def test_same_seed_same_line() -> None:
    """A demo or a test that cannot be repeated cannot be explained."""
    one, other = PlcLineModel(7), PlcLineModel(7)
    for _ in range(4000):
        one.step(DT)
        other.step(DT)
        assert one.values() == other.values()


def test_it_runs_by_itself_batch_after_batch() -> None:
    """Whoever opens the demo sees moving values without pressing anything."""
    model = PlcLineModel(1)
    states: list[str] = []
    while model.stations.parts_good + model.stations.parts_reject < 30:
        model.step(DT)
        if not states or states[-1] != model.state.name:
            states.append(model.state.name)
        assert model.time < 900
    cycle = ["RESETTING", "IDLE", "STARTING", "EXECUTE", "COMPLETING", "COMPLETE"]
    assert states[: 2 * len(cycle) + 1] == ["STOPPED", *cycle, *cycle]


@pytest.mark.parametrize("seed", range(4))
def test_task_a1_can_be_passed(seed: int) -> None:
    """Limits that the line itself cannot keep would fail every trainee."""
    model = running(PlcLineModel(seed))
    cycles: list[float] = []
    while model.state is State.EXECUTE:
        before = model.stations.parts_good + model.stations.parts_reject
        model.step(DT)
        if model.stations.parts_good + model.stations.parts_reject > before > 0:
            cycles.append(model.stations.cycle_time)
    assert len(cycles) == model.batch - 1
    best = min((cycles[i : i + 5] for i in range(len(cycles) - 4)), key=sum)
    assert sum(best) / 5 <= 12.0
    assert max(best) <= 14.0


def test_a_part_passes_every_station_in_order() -> None:
    model = running(PlcLineModel(3, operated=False))
    order: list[str] = []
    signals: dict[str, Callable[[dict[str, bool | int | float]], bool]] = {
        "pushed": lambda v: bool(v["feed.push_out"]),
        "at the press": lambda v: v["trans.pos"] == 300,
        "pressed": lambda v: bool(v["proc.press_down"]) and bool(v["proc.clamp_closed"]),
        "at the assembly": lambda v: v["trans.pos"] == 550,
        "table turned": lambda v: v["asm.turntable_pos"] == 0,
        "at the belt": lambda v: v["trans.pos"] == 900,
        "type read": lambda v: v["sort.part_type"] != PartType.NONE,
        "sorted": lambda v: v["line.parts_good"] + v["line.parts_reject"] == 1,
    }
    for _ in range(round(30 / DT)):
        model.step(DT)
        order += [name for name, seen in signals.items() if name not in order and seen(model.values())]
    assert order == list(signals)


def test_a_cylinder_is_between_its_switches_while_it_moves() -> None:
    model = running(PlcLineModel(3, operated=False))
    run_until(model, lambda: not model.values()["feed.push_home"])
    values = model.values()
    assert not values["feed.push_out"]
    run_until(model, lambda: bool(model.values()["feed.push_out"]), within_s=2)


def test_encoder_counts_with_the_inverter() -> None:
    model = running(PlcLineModel(3))
    run_until(model, lambda: model.stations.belt.frequency == 25.0, within_s=2)
    before = model.stations.belt.encoder
    for _ in range(round(1 / DT)):
        model.step(DT)
    assert model.stations.belt.encoder - before == pytest.approx(25.0 * 8 * 2, rel=0.01)


def test_every_part_is_counted_once_and_lands_in_a_chute() -> None:
    model = running(PlcLineModel(5))
    run_until(model, lambda: model.state is State.COMPLETE)
    assert model.stations.parts_good + model.stations.parts_reject == model.batch


def test_magazine_gets_low_and_is_refilled() -> None:
    model = PlcLineModel(2)
    run_until(model, lambda: bool(model.values()["feed.magazine_low"]))
    run_until(model, lambda: not model.values()["feed.magazine_low"], within_s=120)


def test_stop_works_in_every_state_and_holds_the_axis() -> None:
    """Stop is the one command that may never be refused."""
    model = running(PlcLineModel(4))
    run_until(model, lambda: abs(model.stations.axis.speed) > 300)
    model.stop()
    run_until(model, lambda: model.state is State.STOPPED, within_s=2)
    assert (model.stations.axis.speed, model.stations.belt.frequency) == (0, 0)
    model.stop()
    assert model.state is State.STOPPED


def test_after_a_stop_from_outside_the_operator_keeps_off() -> None:
    """A line that starts again by itself under a trainee's stop would be a danger."""
    model = running(PlcLineModel(4))
    model.stop()
    for _ in range(round(100 / DT)):
        model.step(DT)
    assert model.state is State.STOPPED


def test_hold_keeps_the_part_and_unhold_goes_on() -> None:
    model = running(PlcLineModel(4, operated=False))
    run_until(model, lambda: model.stations.axis.speed > 300)
    model.hold()
    run_until(model, lambda: model.state is State.HELD, within_s=1)
    run_until(model, lambda: model.stations.axis.speed == 0, within_s=1)
    position, done = model.stations.axis.position, model.stations.parts_good + model.stations.parts_reject
    for _ in range(200):
        model.step(DT)
    assert model.stations.axis.position == position
    model.unhold()
    run_until(model, lambda: model.stations.parts_good + model.stations.parts_reject > done, within_s=30)


def test_emergency_stop_aborts_and_start_is_refused_until_cleared_at_the_panel() -> None:
    model = running(PlcLineModel(4, operated=False))
    model.open_estop()
    run_until(model, lambda: model.state is State.ABORTED, within_s=1)
    assert not model.values()["trans.homed"]
    for refused in (model.start, model.reset, model.clear):
        with pytest.raises(NotAllowed):
            refused()
    model.close_estop()
    model.step(DT)
    assert model.state is State.ABORTED
    model.clear()
    run_until(model, lambda: model.state is State.STOPPED, within_s=2)
    idle(model)


def test_open_guard_while_running_aborts() -> None:
    model = running(PlcLineModel(4, operated=False))
    model.guard_closed = False
    run_until(model, lambda: model.state is State.ABORTED, within_s=1)


def test_manual_mode_refuses_commands() -> None:
    model = idle(PlcLineModel(4, operated=False))
    model.mode = Mode.MANUAL
    with pytest.raises(NotAllowed, match="automatic"):
        model.start()


def test_missing_heartbeat_holds_and_then_stops() -> None:
    """Whoever loses the link must not leave a running line behind."""
    model = running(PlcLineModel(4, operated=False))
    model.heartbeat(1)
    lost = model.time
    run_until(model, lambda: model.state is State.HELD, within_s=4)
    assert model.time - lost >= 3
    run_until(model, lambda: model.state is State.STOPPED, within_s=9)
    assert model.time - lost >= 10


def test_dead_end_switch_jams_the_line() -> None:
    """Task A3 needs the alarm of the kit model to come: between the switches for 2 s."""
    model = PlcLineModel(4)
    model.inject(Fault.SENSOR_OFF)
    run_until(model, lambda: model.state is State.HELD)
    assert not model.values()["feed.push_out"]
    assert not model.values()["feed.push_home"]
    model.clear_fault(Fault.SENSOR_OFF)
    run_until(model, lambda: model.stations.parts_good > 0, within_s=60)


def test_low_air_crosses_the_limit_and_recovers() -> None:
    model = PlcLineModel(4)
    model.inject(Fault.AIR_LOW)
    run_until(model, lambda: model.stations.air < 0.41, within_s=20)
    run_until(model, lambda: model.stations.parts_good > 2, within_s=120)
    assert model.stations.air > 0.35, "the high alarm is another fault"
    model.clear_fault(Fault.AIR_LOW)
    run_until(model, lambda: model.stations.air > 0.5, within_s=30)


def test_empty_magazine_stays_empty_until_the_fault_is_taken_out() -> None:
    model = PlcLineModel(4)
    model.inject(Fault.MAGAZINE_EMPTY)
    model.step(DT)
    for _ in range(round(30 / DT)):
        model.step(DT)
        assert model.values()["feed.magazine_empty"]
    model.clear_fault(Fault.MAGAZINE_EMPTY)
    run_until(model, lambda: not model.values()["feed.magazine_empty"], within_s=5)


@pytest.mark.parametrize(("freq", "message"), [(9.9, "10 to 35"), (35.1, "10 to 35"), (31.0, "step")])
def test_set_points_keep_the_limits_of_the_kit_model(freq: float, message: str) -> None:
    model = idle(PlcLineModel(4, operated=False))
    with pytest.raises(NotAllowed, match=message):
        model.set_belt_freq(freq)
    model.set_belt_freq(30)
    assert model.stations.belt.setpoint == 30


COMMANDS = ("reset", "start", "stop", "hold", "unhold", "clear", "open_estop", "close_estop")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((*COMMANDS, *Fault)), st.integers(1, 400)), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_whatever_is_done_the_values_stay_in_range(deeds: list[tuple[str, int]], seed: int) -> None:
    """Values beyond the kit model's range would be alarms that the line never had."""
    model = PlcLineModel(seed)
    ranges = [(c.id, c.min, c.max) for c in PLC_LINE.channels if c.connection == "plc"]
    numbers = {c.id: {value.value for value in c.values} for c in PLC_LINE.channels if c.values}
    for deed, steps in deeds:
        try:
            if deed in COMMANDS:
                getattr(model, deed)()
            elif Fault(deed) in model.faults:
                model.clear_fault(Fault(deed))
            else:
                model.inject(Fault(deed))
        except NotAllowed:
            assert deed not in ("stop", "open_estop")
        for _ in range(steps):
            model.step(DT)
        values = model.values()
        assert values.keys() == {channel for channel, _, _ in ranges}
        for channel, least, most in ranges:
            assert least is None or values[channel] >= least, channel
            assert most is None or values[channel] <= most, channel
        for channel, known in numbers.items():
            assert values[channel] in known, channel


# The server around the model.


@pytest.fixture
async def line() -> AsyncIterator[tuple[PlcLineSimulator, Client]]:
    async with (
        PlcLineSimulator(PlcLineModel(1, operated=False)) as simulator,
        Client(simulator.endpoint) as client,
    ):
        yield simulator, client


async def node_at(client: Client, path: str) -> Node:
    settings = PLC_LINE.connection_by_id["plc"].settings
    index = await client.get_namespace_index(settings["namespace"])
    names = [settings["object"], *path.split(".")]
    return await client.nodes.objects.get_child([f"{index}:{name}" for name in names])


async def test_the_methods_move_the_line_and_refuse(line: tuple[PlcLineSimulator, Client]) -> None:
    """An instructor's client that is not ours starts and stops the line with the methods of PackML."""
    simulator, client = line
    station = await node_at(client, "Line")
    start, reset, stop = [await node_at(client, f"Line.{name}") for name in ("Start", "Reset", "Stop")]
    with pytest.raises(ua.uaerrors.BadInvalidState):
        await station.call_method(start)
    await station.call_method(reset)
    await until(lambda: simulator.model.state is State.IDLE)
    await station.call_method(start)
    assert simulator.model.state is State.STARTING
    await station.call_method(stop)
    await until(lambda: simulator.model.state is State.STOPPED)
    await station.call_method(await node_at(client, "Line.AckAlarm"), "line.estop/estop")


async def test_set_points_can_be_written_and_jump_back_when_refused(line: tuple[PlcLineSimulator, Client]) -> None:
    simulator, client = line
    idle(simulator.model)
    frequency = await node_at(client, "Sorting.BeltFrequencySetpoint")
    await frequency.write_value(28.0, ua.VariantType.Double)
    await until(lambda: simulator.model.stations.belt.setpoint == 28.0)
    await frequency.write_value(99.0, ua.VariantType.Double)
    jumped_back = simulator.server.read_attribute_value
    await until(lambda: jumped_back(frequency.nodeid).Value.Value == 28.0)
    assert await frequency.read_value() == 28.0
    fault = await node_at(client, "Simulation.AirLow")
    await fault.write_value(True)
    await until(lambda: Fault.AIR_LOW in simulator.model.faults)
    heartbeat = await node_at(client, "Line.Heartbeat")
    await heartbeat.write_value(1, ua.VariantType.UInt32)


async def test_measured_values_cannot_be_written(line: tuple[PlcLineSimulator, Client]) -> None:
    _, client = line
    estop = await node_at(client, "Line.EStop")
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await estop.write_value(False)


async def test_it_listens_on_this_machine_only(line: tuple[PlcLineSimulator, Client]) -> None:
    simulator, _ = line
    assert simulator.endpoint.startswith("opc.tcp://127.0.0.1:")

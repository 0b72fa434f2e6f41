"""Motors of the simulated robot: from motion and load to current, from current to temperature. Pure; one call a step.

Gravity is that of point masses along the arm. Not modelled: inertia that depends on the arm, Coriolis forces,
cogging, a drive's field weakening, heat passed from joint to joint.
"""

from __future__ import annotations

import numpy as np

from simulators.robot_kinematics import Array

RATED_CURRENT_A = 10.0
TORQUE_CONSTANT = np.array([16.0, 16.0, 14.0, 5.0, 5.0, 5.0])
"""N m at the joint per ampere of the motor, gear included."""
INERTIA = np.array([1.6, 1.8, 0.9, 0.12, 0.08, 0.03])
"""kg m^2 as seen by each joint: one number for all arm positions."""
VISCOUS = np.array([0.18, 0.18, 0.14, 0.05, 0.05, 0.05])
"""N m per deg/s."""
COULOMB = np.array([6.0, 6.0, 4.5, 1.6, 1.6, 1.4])
"""N m of dry friction while a joint turns."""
MASSES = ((2, 0.5, 4.0), (3, 0.5, 2.4), (4, 1.0, 1.3), (5, 1.0, 1.3), (6, 1.0, 0.4))
"""Point masses: (frame they move with, share of the way from the frame before to it, kg)."""
AMBIENT_C, HEAT_C_PER_A2, THERMAL_S = 24.0, 1.9, 900.0
"""Room temperature, rise at rest per ampere squared, time constant of a motor."""
GRAVITY = 9.81


def currents(chain: list[Array], speed: Array, acceleration: Array, payload: float) -> Array:
    """Motor currents of shape (6,) in A, without sign.

    `chain` are the frames of the arm, `speed` deg/s, `acceleration` deg/s^2, `payload` kg at the tool point.
    """
    torque = (
        gravity_torque(chain, payload) + INERTIA * np.radians(acceleration) + VISCOUS * speed + COULOMB * np.sign(speed)
    )
    return np.abs(torque / TORQUE_CONSTANT)


def gravity_torque(chain: list[Array], payload: float) -> Array:
    """The torque in N m that each joint needs against gravity, shape (6,)."""
    points = [
        (index, chain[index - 1][:3, 3] * (1 - share) + chain[index][:3, 3] * share, mass)
        for index, share, mass in MASSES
    ]
    points.append((7, chain[7][:3, 3], payload))
    torque = np.zeros(6)
    for axis in range(6):
        turn, origin = chain[axis][:3, 2], chain[axis][:3, 3]
        for index, point, mass in points:
            if index > axis:
                # turn . (arm x (0, 0, weight)), lengths from mm to m
                arm = (point - origin) / 1000.0
                torque[axis] += mass * GRAVITY * (turn[0] * arm[1] - turn[1] * arm[0])
    return torque


def warmed(temperature: Array, current: Array, dt: float) -> Array:
    """The motors' temperatures in degrees Celsius, shape (6,), after `dt` seconds at `current` amperes."""
    rest = AMBIENT_C + HEAT_C_PER_A2 * current**2
    return temperature + (rest - temperature) * (dt / THERMAL_S)

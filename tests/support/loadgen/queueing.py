"""What queueing theory says of an M/D/1 queue: random arrivals, fixed service times, one server."""

import math


def met_in_time(rate_rps: float, service_s: float, objective_s: float) -> float:
    """Return the share of customers served within the objective (Erlang's formula for the wait)."""
    wait_s = objective_s - service_s
    terms = (
        (rate_rps * (k * service_s - wait_s)) ** k / math.factorial(k) * math.exp(-rate_rps * (k * service_s - wait_s))
        for k in range(int(wait_s / service_s) + 1)
    )
    return (1 - rate_rps * service_s) * sum(terms)


def highest_rate(target: float, service_s: float, objective_s: float) -> float:
    """Return the rate at which the share falls to the target."""
    low, high = 0.0, 1 / service_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if met_in_time(middle, service_s, objective_s) >= target else (low, middle)
    return low

"""The attacks: each is a name and what it sends."""

from collections.abc import Callable, Mapping

from benchmarks.hostile import payloads
from benchmarks.hostile.payloads import GENERATIONS, MB, post
from benchmarks.hostile.wire import Address, Replies, burst, drip, exchange, exchange_all, read_nothing, sum_up

Attack = Callable[[Address, float], Replies]
LONG_STEPS = 100  # a request of so many steps is held for seconds by the stand-in behind the gateway
SIDE = 16_000_000


def _send(request: Callable[[], bytes]) -> Attack:
    return lambda address, limit_s: exchange_all(address, [request()], limit_s)


def _body(body: Callable[[], bytes]) -> Attack:
    return _send(lambda: post(GENERATIONS, body()))


def _list(field: str, item: str, megabytes: int) -> Attack:
    return _body(lambda: payloads.long_list(field, item, megabytes * MB))


def _image(width: int, height: int, count: int = 1) -> Attack:
    def send(address: Address, limit_s: float) -> Replies:
        return exchange_all(address, [payloads.edit(payloads.grey_png(width, height))] * count, limit_s)

    return send


def _burst(address: Address, limit_s: float) -> Replies:
    requests = [payloads.generation(number, LONG_STEPS) for number in range(3000)]
    return burst(address, requests, limit_s)


ATTACKS: Mapping[str, Attack] = {
    "40,000 names, one of them twice (430 kB)": _body(lambda: payloads.many_names(40_000)),
    **{
        f"an unused field of {megabytes} MB of `{item}`": _list("style", item, megabytes)
        for megabytes in (10, 45)
        for item in ("[]", "{}", "0")
    },
    "45 MB of `lora` entries": _list("lora", '{"name":"a","scale":1}', 45),
    "a million lists in each other": _body(lambda: payloads.nested(MB)),
    "a header of 200 MB": lambda at, limit_s: sum_up([exchange(at, payloads.large_header(200 * MB), limit_s)]),
    "200 MB of small headers": lambda at, limit_s: sum_up([exchange(at, payloads.small_headers(200 * MB), limit_s)]),
    "a target of 200 MB": lambda at, limit_s: sum_up([exchange(at, payloads.large_target(200 * MB), limit_s)]),
    "300 MB to a route that is not there": lambda at, limit_s: sum_up(
        [exchange(at, payloads.large_body("/nowhere", 300 * MB), limit_s)]
    ),
    "150 silent or dripping connections": lambda at, limit_s: drip(at, payloads.dripping().values(), 30, limit_s),
    "20 clients that send 2,000 GETs and read nothing": lambda at, limit_s: read_nothing(at, 20, 2000, limit_s),
    "an image of 16,000,000 x 1": _image(SIDE, 1),
    "an image of 1 x 16,000,000": _image(1, SIDE),
    "six of them at once": _image(1, SIDE, 6),
    "3,000 requests at once": _burst,
}

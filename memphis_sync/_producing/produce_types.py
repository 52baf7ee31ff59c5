"""What produce() accepts and returns, blocking and not, for one station and for several; for type checkers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Literal, Optional, Protocol, TypedDict, Union, cast, overload

from memphis_sync._producing.sender import OnDelivery
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.types import Payload, PubAck, PubAcks

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack


class ProduceOptions(TypedDict, total=False):
    """What Producer.produce() and Memphis.produce() may be told by name, for type checkers; see the first of them."""

    msg_id: Optional[str]
    producer_partition_key: Optional[str]
    producer_partition_number: int


class KeptProducerOptions(ProduceOptions, total=False):
    """The same of Memphis.produce(), which also has the options of a producer."""

    ack_wait_sec: float
    headers: Optional[Mapping[str, str]]
    generate_random_suffix: bool
    idempotent: bool
    block_on_full_s: Optional[float]


class BlockingOptions(KeptProducerOptions, total=False):
    """The same of a call that waits."""

    nonblocking: Literal[False]


class NonblockingOptions(KeptProducerOptions, total=False):
    """The same of a call that does not."""

    nonblocking: Required[Literal[True]]
    on_delivery: Optional[OnDelivery]


class Producing(Protocol):
    """
    What a function that only produces asks for: a Producer of one station is one, and so is a stand-in in a test.

        def announce(orders: memphis_sync.Producing, number: int) -> None:
            orders.produce({"id": number}, producer_partition_key=str(number))
    """

    def produce(
        self,
        message: Payload,
        *,
        headers: Optional[Mapping[str, str]] = ...,
        msg_id: Optional[str] = ...,
        producer_partition_key: Optional[str] = ...,
        producer_partition_number: int = ...,
    ) -> PubAck:
        """As Producer.produce(), blocking."""
        ...


class ProduceMethod(Protocol):
    """Memphis.produce(); it stands here because so many signatures would hide what the client does."""

    @overload
    def __call__(
        self, station_name: str, producer_name: str, message: Payload, **options: Unpack[BlockingOptions]
    ) -> PubAck: ...

    @overload
    def __call__(
        self, station_name: str, producer_name: str, message: Payload, **options: Unpack[NonblockingOptions]
    ) -> Delivery: ...

    @overload
    def __call__(
        self, station_name: list[str], producer_name: str, message: Payload, **options: Unpack[BlockingOptions]
    ) -> Union[PubAck, PubAcks]: ...

    @overload
    def __call__(
        self, station_name: list[str], producer_name: str, message: Payload, **options: Unpack[NonblockingOptions]
    ) -> Union[Delivery, Deliveries]: ...

    @overload
    def __call__(
        self,
        station_name: Union[str, list[str]],
        producer_name: str,
        message: Payload,
        generate_random_suffix: bool = ...,
        ack_wait_sec: float = ...,
        headers: Optional[Mapping[str, str]] = ...,
        async_produce: bool = ...,
        msg_id: Optional[str] = ...,
        producer_partition_key: Optional[str] = ...,
        producer_partition_number: int = ...,
        *,
        nonblocking: bool = ...,
        idempotent: bool = ...,
        on_delivery: Optional[OnDelivery] = ...,
        block_on_full_s: Optional[float] = ...,
    ) -> Union[PubAck, PubAcks, Delivery, Deliveries]: ...


def as_produce(function: Callable[..., object]) -> ProduceMethod:
    """Gives Memphis.produce() these signatures."""
    return cast("ProduceMethod", function)

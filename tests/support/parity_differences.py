"""
Where memphis_sync differs from memphis.py 1.3.1 on purpose, and what stands for the parts of asyncio that programs use
with it: two tables, which PAGE shows as they stand here.

A row names what it excuses (``names``, checked against the inspection of memphis-py: each must really be missing or
different, and nothing else may be), or, where a signature cannot show it, the test that does (``shown_by``).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "differences-from-memphis-py.md"
MAX_ROWS = 15


class Difference(NamedTuple):
    """One row."""

    theirs: str
    ours: str
    why: str
    names: tuple[str, ...] = ()
    shown_by: str = ""


def _of(owner: str, names: str) -> tuple[str, ...]:
    """``_of("Memphis", "a b")`` is ``("Memphis.a", "Memphis.b")``."""
    return tuple(f"{owner}.{name}" for name in names.split())


DIFFERENCES = (
    Difference(
        "`await memphis.station(...)`, `async def` callbacks",
        "`memphis.station(...)`, plain functions",
        "that is what this package is for; a coroutine as a callback is refused by name",
        shown_by="parity/test_surface.py::test_every_coroutine_is_a_plain_function",
    ),
    Difference(
        "`memphis.exceptions`, `memphis.memphis`",
        "`memphis_sync.errors`, `memphis_sync.client`; every name also from `memphis_sync` itself",
        "`memphis.memphis.Memphis` is in nobody's program: `from memphis import Memphis` is",
        names=(
            "memphis.exceptions",
            *_of("memphis.exceptions", "MemphisError MemphisConnectError MemphisSchemaError MemphisHeaderError"),
            "memphis.memphis",
            "memphis.memphis.Memphis",
            "memphis.memphis.app_id",
        ),
    ),
    Difference(
        "`memphis.utils`, `memphis.partition_generator`",
        "none",
        "tools of its own: a timer, random text, a counter that goes round",
        names=(
            "memphis.utils",
            *_of("memphis.utils", "set_interval default_error_handler get_internal_name random_bytes"),
            "memphis.partition_generator",
            "memphis.partition_generator.PartitionGenerator",
            "memphis.producer.schemaverse_fail_alert_type",
        ),
    ),
    Difference(
        "`Producer(...)`, `Consumer(...)`, `Station(...)`, `Message(...)` take a connection",
        "made by `memphis.producer()` and its like, and by fetching",
        "an object that the broker does not know of could not do anything",
        names=("Producer()", "Consumer()", "Station()", "Message()"),
    ),
    Difference(
        "`connect()` needs `host` and `username`, `create_schema()` a `schema_path`, `delay()` a `delay`",
        "they may be left out",
        "`MEMPHIS_URL`, or `MEMPHIS_HOST` and its like, `schema_content=` and `delay_ms=` stand in",
        names=(
            "Memphis.connect(host)",
            "Memphis.connect(username)",
            "Memphis.create_schema(schema_path)",
            "Message.delay(delay)",
            "MemphisError(message)",
        ),
    ),
    Difference(
        "listeners and caches on `Memphis`, as `update_schema_data()` and `producers_map`",
        "none",
        "they are how it works inside; called from outside they break the connection",
        names=(
            *_of(
                "Memphis",
                "get_msgs_sdk_clients_updates sdk_client_updates_listener get_broker_manager_connection "
                "send_notification update_schema_data get_msg_schema_updates parse_descriptor "
                "start_listen_for_functions_updates get_msg_functions_updates start_listen_for_schema_updates "
                "schema_name_validation unset_cached_producer_station unset_cached_consumer_station "
                "MEMPHIS_GLOBAL_ACCOUNT_NAME SEED",
            ),
            *_of(
                "Memphis",
                "avro_schemas broker_connection broker_manager clients_per_station cluster_configurations "
                "configuration_tasks consumers_map functions_clients_per_station functions_tasks "
                "functions_updates_data functions_updates_subs graphql_schemas json_schemas "
                "partition_consumers_updates_data partition_producers_updates_data producers_map proto_msgs "
                "schema_tasks schema_updates_data schema_updates_subs station_schemaverse_to_dls "
                "update_configurations_sub",
            ),
        ),
    ),
    Difference(
        "`memphis.host`, `.password` and the other arguments of `connect()` as attributes",
        "`repr(memphis)`, `is_connected()`, `connection_id`",
        "a client may have several addresses, and a secret that can be read is logged one day",
        names=_of(
            "Memphis",
            "account_id connection_token host is_connection_active max_reconnect password port reconnect "
            "reconnect_interval_ms timeout_ms username",
        ),
    ),
    Difference(
        "`station.validate_msg()`, `producer.get_partition_from_key()` and their like",
        "none",
        "`produce()` and `fetch()` check and choose by themselves, before anything is sent",
        names=(
            *_of(
                "Station", "validate_msg validate_protobuf validate_json_schema validate_graphql validate_avro_schema"
            ),
            *_of("Producer", "get_partition_from_key validate_partition_number"),
            *_of("Consumer", "get_partition_from_key validate_partition_number load_messages_to_cache"),
        ),
    ),
    Difference(
        "what an object keeps for itself, as `consumer.t_ping`, `consumer.last_messages`, `message.message`",
        "none",
        "no task and no nats-py object stands behind ours, and where a group starts counts only when it is made",
        names=(
            *_of(
                "Consumer",
                "cached_messages connection consumer_dls dls_callback_func dls_current_index "
                "inner_station_name internal_station_name last_messages loading_thread partition_generator "
                "ping_consumer_interval_ms start_consume_from_sequence subscriptions t_consume t_dls t_ping",
            ),
            *_of(
                "Producer",
                "background_tasks connection internal_station_name is_multi_station_producer loop "
                "partition_generator real_name station",
            ),
            *_of("Station", "connection internal_station_name"),
            *_of("Message", "cg_name connection internal_station_name message"),
        ),
    ),
    Difference(
        "`message.station` is a `Station`",
        "the station's name",
        "a program wants to know where a message is from; `memphis.station(name)` gives the object",
        names=("Message.station",),
    ),
    Difference(
        "`produce()` returns nothing",
        "a `PubAck`; with `nonblocking=True` a `Delivery`",
        "a message that was not stored must be known of; there, a failed one is lost in silence",
        shown_by="parity/test_names_at_work.py::test_produce_takes_every_argument",
    ),
    Difference(
        "texts begin with `memphis: `, with `nats` in them rewritten",
        "texts name the option or object, the value and the bound; errors have classes of their own below the old ones",
        "a program can tell a time-out from a refusal",
        shown_by="parity/test_names_at_work.py::test_errors_and_their_text",
    ),
    Difference(
        "an idle `consume()` calls back with `[]` and a time-out every 5 s; an exception in the callback ends it",
        "no call without a message or an error; consuming goes on",
        "an empty station is no error, and one bad message must not stop a program unseen",
        shown_by="parity/test_names_at_work.py::test_consuming_takes_every_argument_and_goes_on",
    ),
    Difference(
        "`max_reconnect` above 9 means 9; a wrong token or a host that is away is tried for ever by `connect()`",
        "the number holds; `timeout_ms` is for the whole of `connect()`, which raises",
        "an option does what it says",
        shown_by="parity/test_names_at_work.py::test_connect_takes_every_argument",
    ),
    Difference(
        "a second `producer()` or `consumer()` of the same name gives the first one, whatever its options",
        "one of its own",
        "options that are silently dropped are none; `produce()` and `fetch_messages()` keep theirs by all options",
        shown_by="parity/test_names_at_work.py::test_two_of_a_name_are_two",
    ),
)


# Of asyncio, and what stands for it.
REPLACEMENTS = {
    "asyncio.run(main())": "main()",
    "asyncio.sleep(1)": "time.sleep(1)",
    "asyncio.gather(...)": "concurrent.futures.ThreadPoolExecutor().map(...): all threads may share one client",
    "asyncio.create_task(work())": "threading.Thread(target=work).start()",
    "asyncio.to_thread(work)": "work()",
    "asyncio.wait_for(consumer.fetch(), 5)": "consumer.fetch(timeout_s=5): each call has its own limit",
    "asyncio.wait_for(event.wait(), 5)": "event.wait(5)",
    "asyncio.TimeoutError": "builtins.TimeoutError: every DeadlineError is one",
    "asyncio.Event()": "threading.Event()",
    "asyncio.Event().wait()": "threading.Event().wait(): the main thread waits while consume() works",
    "asyncio.Lock()": "threading.Lock()",
    "asyncio.Semaphore(8)": "threading.Semaphore(8)",
    "asyncio.Queue()": "queue.Queue()",
    "asyncio.wait(tasks)": "memphis_sync.wait(deliveries): of messages that were produced without blocking",
    "asyncio.as_completed(tasks)": "memphis_sync.as_completed(deliveries)",
}


def as_markdown() -> str:
    """The table of differences as the page shows it."""
    rows = [f"| {row.theirs} | {row.ours} | {row.why} |" for row in DIFFERENCES]
    return "\n".join(["| memphis.py 1.3.1 | memphis_sync | why |", "|---|---|---|", *rows])


def replacements_as_markdown() -> str:
    """The table of what stands for asyncio as the page shows it."""
    rows = []
    for theirs, ours in REPLACEMENTS.items():
        call, colon, remark = ours.partition(": ")
        rows.append(f"| `{theirs}` | `{call.replace('builtins.', '')}`{colon}{remark} |")
    return "\n".join(["| with asyncio | with memphis_sync |", "|---|---|", *rows])

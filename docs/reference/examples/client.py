"""Examples of the reference: each cell runs in the tests, with a client, a station "orders" and a consumer of it."""

# %% memphis_sync.connect
with memphis_sync.connect() as memphis:  # MEMPHIS_URL, or "memphis://user:password@host:6666"
    memphis.produce("orders", "shop", {"id": 7})
# %% memphis_sync.check_connect
plan = memphis_sync.check_connect("memphis://shop:secret@broker:6666/?exit_timeout_s=20")  # opens nothing
print(plan.addresses, plan.username)
# %% memphis_sync.Memphis.connect
memphis = memphis_sync.Memphis()
memphis.connect()  # as with memphis.py; memphis_sync.connect() does both
memphis.close()
# %% memphis_sync.Memphis.close
memphis.produce("orders", "shop", b"hello", nonblocking=True)
memphis.close(timeout_s=10)  # sends what is queued; a with block does it by itself
# %% memphis_sync.Memphis.is_connected
if not memphis.is_connected():
    print("the broker is away, and the client tries it again and again")
# %% memphis_sync.Memphis.ping
print(f"the broker answers in {memphis.ping(timeout_s=5) * 1000:.1f} ms")
# %% memphis_sync.Memphis.stats
stats = memphis.stats()
print(stats.queued + stats.in_flight, "messages are not confirmed yet,", stats.failed, "have failed")
# %% memphis_sync.Memphis.watch_stats
memphis.watch_stats(lambda stats: print(stats.queued, "messages wait"), interval_s=60)
# %% memphis_sync.Memphis.add_observer
class Outages(memphis_sync.Observer):
    def link(self, event):
        print(event.link, event.reason)


memphis.add_observer(Outages())
# %% memphis_sync.Memphis.flush
for number in range(1000):
    memphis.produce("orders", "shop", {"id": number}, nonblocking=True)
if memphis.flush(timeout_s=30) > 0:
    print("not everything is stored yet")
# %% memphis_sync.Memphis.station
audit = memphis.station("orders", partitions_number=3, retention_type=memphis_sync.Retention.MESSAGES, retention_value=10_000)
# %% memphis_sync.Memphis.stations
for info in memphis.stations():
    print(info.name, info.messages, "messages")
# %% memphis_sync.Memphis.destroy_station
memphis.destroy_station("orders")
# %% memphis_sync.Memphis.connections
for connection in memphis.connections("orders"):
    print(connection.address, connection.username, connection.producer_names)
# %% memphis_sync.Memphis.produce
stored = memphis.produce("orders", "shop", {"id": 7}, headers={"trace": "a1"}, producer_partition_key="customer-17")
print("stored in partition", stored.partition, "as number", stored.sequence)
# %% memphis_sync.Memphis.producer
with_id = memphis.producer("orders", "shop", block_on_full_s=5)
with_id.produce({"id": 7}, msg_id="order-7")  # a second one with this id is stored once
# %% memphis_sync.Memphis.consumer
billing = memphis.consumer("orders", "billing-1", consumer_group="billing", max_msg_deliveries=5)
for message in billing.fetch(10):
    message.ack()
# %% memphis_sync.Memphis.fetch_messages
for message in memphis.fetch_messages("orders", "billing", until_end=True):
    with message:
        print(message.data)
# %% memphis_sync.Memphis.dls
for letter in memphis.dls("orders"):
    print(letter.reason, letter.data)
# %% memphis_sync.Memphis.create_schema
memphis.create_schema("order", "json", schema_content='{"type": "object", "required": ["id"]}')
memphis.enforce_schema("order", "orders")
# %% memphis_sync.Memphis.activate_schema_version
memphis.create_schema("order", "json", schema_content='{"type": "object"}')
print("version", memphis.activate_schema_version("order"), "is active")
# %% memphis_sync.Memphis.enforce_schema
memphis.create_schema("order", "json", schema_content='{"type": "object", "required": ["id"]}')
memphis.enforce_schema("order", "orders")
try:
    memphis.produce("orders", "shop", {"total": 1})
except memphis_sync.SchemaError as error:
    print("refused before it was sent:", error)
# %% memphis_sync.Memphis.attach_schema
memphis.create_schema("order", "json", schema_content='{"type": "object"}')
memphis.attach_schema("order", "orders")  # the name that memphis.py had first: enforce_schema() does the same
# %% memphis_sync.Memphis.detach_schema
memphis.detach_schema("orders")
# %% memphis_sync.Memphis.schema
memphis.create_schema("order", "json", schema_content='{"type": "object"}')
print(memphis.schema("order").content)
# %% memphis_sync.Memphis.schemas
for schema in memphis.schemas():
    print(schema.name, schema.type, schema.active_version)
# %% memphis_sync.Headers.add
headers = memphis_sync.Headers()
headers.add("trace", "a1")
memphis.produce("orders", "shop", b"hello", headers=headers)
# %% memphis_sync.Station.info
info = station.info()
print(info.messages, "messages,", [(group.name, group.lag) for group in info.groups])
# %% memphis_sync.Station.peek
for seen in station.peek(5):  # the newest; no group gets them, and no delivery is used up
    print(seen.sequence, seen.data)
# %% memphis_sync.PeekedMessage.json
print([seen.json()["id"] for seen in station.peek(5)])
# %% memphis_sync.PeekedMessages.to_dicts
rows = station.peek(5).to_dicts()  # for pandas.DataFrame(rows)
print(rows[0]["sequence"])
# %% memphis_sync.Station.replay
for seen in station.replay():  # everything that the station holds, without a group
    print(seen.sequence, seen.data)
# %% memphis_sync.Station.purge
print(station.purge(), "messages removed")
# %% memphis_sync.Station.destroy
station.destroy()

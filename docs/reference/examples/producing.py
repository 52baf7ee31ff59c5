"""Examples of the reference: each cell runs in the tests, with a client, a station "orders" and a producer of it."""

# %% memphis_sync.Producer.produce
stored = producer.produce({"id": 7})
delivery = producer.produce({"id": 8}, nonblocking=True)  # waits for nothing
print(stored.sequence, delivery.result(timeout=5).sequence)
# %% memphis_sync.Producer.produce_each
deliveries = producer.produce_each([b"one", b"two"])
print([delivery.result(timeout=5).sequence for delivery in deliveries])
# %% memphis_sync.Producer.produce_many
result = producer.produce_many({"id": number} for number in range(1000))
print(result.delivered, "stored in", result.seconds, "s")
# %% memphis_sync.Producer.flush
producer.produce(b"hello", nonblocking=True)
producer.flush(timeout_s=5)
# %% memphis_sync.Producer.destroy
producer.destroy()
# %% memphis_sync.Delivery.result
delivery = producer.produce(b"hello", nonblocking=True)
print("stored as number", delivery.result(timeout=5).sequence)
# %% memphis_sync.Delivery.exception
delivery = producer.produce(b"hello", nonblocking=True)
error = delivery.exception(timeout=5)
if error is not None:
    print(error.outcome, "under the id", error.message_id)
# %% memphis_sync.Delivery.done
delivery = producer.produce(b"hello", nonblocking=True)
if not delivery.done():
    print("on its way")
# %% memphis_sync.Delivery.running
delivery = producer.produce(b"hello", nonblocking=True)
if delivery.running():
    print("nobody knows yet")
# %% memphis_sync.Delivery.cancel
delivery = producer.produce(b"hello", nonblocking=True)
if not delivery.cancel():
    print("too late: it is on its way")  # always: what was accepted is sent
# %% memphis_sync.Delivery.cancelled
delivery = producer.produce(b"hello", nonblocking=True)
assert not delivery.cancelled()
# %% memphis_sync.Delivery.add_done_callback
delivery = producer.produce(b"hello", nonblocking=True)
delivery.add_done_callback(lambda done: print(done.station, done.exception()))
# %% memphis_sync.Deliveries.result
both = memphis.produce(["orders", "orders-copy"], "shop", b"hello", nonblocking=True)
print(both.result(timeout=5)["orders"].sequence)
# %% memphis_sync.Deliveries.exception
both = memphis.produce(["orders", "orders-copy"], "shop", b"hello", nonblocking=True)
if both.exception(timeout=5) is None:
    print("stored in both")
# %% memphis_sync.Deliveries.done
both = memphis.produce(["orders", "orders-copy"], "shop", b"hello", nonblocking=True)
print(both.done(), both["orders"].done())
# %% memphis_sync.Deliveries.add_done_callback
both = memphis.produce(["orders", "orders-copy"], "shop", b"hello", nonblocking=True)
both.add_done_callback(lambda done: print("all have ended"))
# %% memphis_sync.wait
deliveries = [producer.produce({"id": number}, nonblocking=True) for number in range(10)]
done, not_done = memphis_sync.wait(deliveries, timeout_s=5)
# %% memphis_sync.as_completed
deliveries = [producer.produce({"id": number}, nonblocking=True) for number in range(10)]
for delivery in memphis_sync.as_completed(deliveries, timeout_s=5):
    print(delivery.sequence, delivery.exception())
# %% memphis_sync.encode_message
encoded = memphis_sync.encode_message("orders", {"id": 7}, client=memphis)  # checked and serialized, not sent
print(bytes(encoded.payload))

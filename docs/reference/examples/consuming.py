"""Examples of the reference: each cell runs in the tests, with a consumer of a station that holds three orders."""

# %% memphis_sync.Consumer.fetch
for message in consumer.fetch(10, timeout_s=5):
    print(message.data)
    message.ack()
# %% memphis_sync.Consumer.read_all
for message in consumer.read_all():
    with message:  # acknowledged at the end of the block, given back when it raises
        print(message.json()["id"])
# %% memphis_sync.Consumer.consume
import threading

done = threading.Event()


def handler(messages, error, context):
    for message in messages:
        print(message.data)
        message.ack()
        done.set()


consumer.consume(handler, workers=2)
done.wait(30)
consumer.stop()
# %% memphis_sync.Consumer.wait
def handler(messages, error, context):
    for message in messages:
        message.ack()
    consumer.stop(0)


consumer.consume(handler)
consumer.wait(timeout_s=30)
# %% memphis_sync.Consumer.run
def on_order(message):
    print(message.json()["id"])


consumer.run(on_order, on_error="dead_letter", max_messages=3)
# %% memphis_sync.Consumer.stop
for message in consumer:
    message.ack()
    consumer.stop(0)  # the loop ends after this message
# %% memphis_sync.Consumer.stop_consume
consumer.stop_consume()  # as with memphis.py; stop() is the same
# %% memphis_sync.Consumer.set_context
consumer.set_context({"table": "orders"})  # the third argument of consume()'s callback
# %% memphis_sync.Consumer.receipt
(message,) = consumer.fetch(1, timeout_s=5)
receipt = consumer.receipt(message)  # a text, for a table or another process
consumer.restore(receipt).ack()
# %% memphis_sync.Consumer.restore
(message,) = consumer.fetch(1, timeout_s=5)
receipt = consumer.receipt(message)
consumer.restore(receipt).ack()  # here or in any process of the group
# %% memphis_sync.Consumer.destroy
consumer.destroy()
# %% memphis_sync.Message.ack
(message,) = consumer.fetch(1, timeout_s=5)
message.ack(wait=True)  # the broker has it: the message is never delivered again
# %% memphis_sync.Message.nack
(message,) = consumer.fetch(1, timeout_s=5)
message.nack()  # delivered again at once, to any member of the group
# %% memphis_sync.Message.delay
(message,) = consumer.fetch(1, timeout_s=5)
message.delay(delay_ms=500)  # delivered again after half a second
# %% memphis_sync.Message.in_progress
(message,) = consumer.fetch(1, timeout_s=5)
message.in_progress()  # the work takes longer: the ack time begins again
message.ack()
# %% memphis_sync.Message.processing
(message,) = consumer.fetch(1, timeout_s=5)
with message.processing():  # for observers: a span of OpenTelemetry, for instance
    print(message.data)
message.ack()
# %% memphis_sync.Message.dead_letter
(message,) = consumer.fetch(1, timeout_s=5)
message.dead_letter("no such customer")
# %% memphis_sync.Message.get_data
(message,) = consumer.fetch(1, timeout_s=5)
print(message.get_data())  # a bytearray, as with memphis.py; message.data is bytes
# %% memphis_sync.Message.json
(message,) = consumer.fetch(1, timeout_s=5)
print(message.json()["id"])
# %% memphis_sync.Message.get_data_deserialized
(message,) = consumer.fetch(1, timeout_s=5)
print(message.get_data_deserialized())  # by the station's schema
# %% memphis_sync.Message.get_headers
(message,) = consumer.fetch(1, timeout_s=5)
print(message.get_headers()["$memphis_producedBy"])
# %% memphis_sync.Message.get_sequence_number
(message,) = consumer.fetch(1, timeout_s=5)
print("number", message.get_sequence_number(), "of partition", message.partition)
# %% memphis_sync.Message.get_timesent
(message,) = consumer.fetch(1, timeout_s=5)
print("stored at", message.get_timesent())
# %% memphis_sync.Messages.ack
messages = consumer.fetch(10, timeout_s=5)
messages.ack()  # all of them at once, when the whole batch is done
# %% memphis_sync.Messages.to_dicts
rows = consumer.fetch(10, timeout_s=5).to_dicts()  # for pandas.DataFrame(rows)
print(rows[0]["sequence"])
# %% memphis_sync.DeadLetters.list
for letter in station.dls.list(limit=10):
    print(letter.id, letter.reason, letter.data)
# %% memphis_sync.DeadLetters.iterate
for letter in station.dls.iterate():  # in pages: any number
    print(letter.id, letter.reason)
# %% memphis_sync.DeadLetters.resend
print(station.dls.resend(), "are delivered again to the groups that they failed in")
# %% memphis_sync.DeadLetters.drop
print(station.dls.drop(), "dropped")
# %% memphis_sync.handler
@memphis_sync.handler("orders", group="billing", on_error="dead_letter")
def on_order(message):
    print(message.json()["id"])


memphis_sync.run_handler(memphis, on_order, max_messages=3)
# %% memphis_sync.run_handler
@memphis_sync.handler("orders", group="billing")
def on_order(message):
    print(message.json()["id"])


memphis_sync.run_handler(memphis, on_order, idle_exit_s=0.1)
# %% memphis_sync.load_handler
try:
    on_order = memphis_sync.load_handler("shop.handlers.on_order")
except memphis_sync.ConfigurationError as error:
    print(error)  # names what is missing, and the nearest name

"""Examples of the reference: each cell runs in the tests, with a client of a gateway."""

# %% memphis_sync.http.connect
with memphis_sync.http.connect("https://user:password@gateway:4444") as memphis:  # or MEMPHIS_HTTP_URL
    memphis.produce("orders", {"id": 7})
# %% memphis_sync.http.HttpClient.produce
answer = memphis.produce("orders", {"id": 7})
print(answer.is_stored, answer.sequence)
# %% memphis_sync.http.HttpClient.produce_many
result = memphis.produce_many("orders", ({"id": number} for number in range(100)))
print(result.delivered, "stored")
# %% memphis_sync.http.HttpClient.fetch_messages
for message in memphis.fetch_messages("orders", "billing"):
    print(message.data)
    message.ack()
# %% memphis_sync.http.HttpClient.close
memphis.close()
# %% memphis_sync.http.HttpMessage.ack
for message in memphis.fetch_messages("orders", "billing"):
    message.ack()
# %% memphis_sync.http.HttpMessage.nack
for message in memphis.fetch_messages("orders", "billing"):
    message.nack()
# %% memphis_sync.http.HttpMessage.delay
for message in memphis.fetch_messages("orders", "billing"):
    message.delay(delay_ms=500)
# %% memphis_sync.http.HttpMessage.dead_letter
for message in memphis.fetch_messages("orders", "billing"):
    message.dead_letter("no such customer")
# %% memphis_sync.http.HttpMessages.ack
messages = memphis.fetch_messages("orders", "billing")
messages.ack()  # all in one request

pytest_plugins = ["memphis_sync.testing"]  # in a project of your own: in conftest.py


def test_an_order_is_announced(client, db, settings, memphis_sent, django_capture_on_commit_callbacks):
    settings.MEMPHIS = {"default": {"URL": "memory://"}}
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/orders", {"customer": 17})
    (sent,) = memphis_sent
    assert (sent.station, sent.partition_key) == ("orders", "17")

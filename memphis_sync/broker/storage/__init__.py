"""The control plane's state in JetStream, and who may change it: tables, records, leases, locks."""

"""What the control plane remembers in JetStream, and who may change it: tables, records, leases, locks."""

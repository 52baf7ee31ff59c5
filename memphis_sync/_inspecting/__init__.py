"""Looking at what a broker holds: stations, groups, members, schemas, and messages without consuming them."""

"""What answers the requests of clients: one module a subject, and the work that goes on behind them."""

"""What a client's methods do that change what the broker holds, behind their signatures."""

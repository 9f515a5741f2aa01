"""SafeEdit's protocol: one instance is edited, asked about and reverted at a time."""

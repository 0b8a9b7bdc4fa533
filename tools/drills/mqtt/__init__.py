"""Long drills of the way to the broker: kills, partitions, loss, an outage, a slow link, and what inspection feels."""

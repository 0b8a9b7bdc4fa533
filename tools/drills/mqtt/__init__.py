"""Long drills of the broker connection: kills, partitions, loss, an outage, a slow link, effect on inspection."""

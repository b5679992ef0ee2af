"""A rehearsal: tiny uploads that show how a server speaks."""

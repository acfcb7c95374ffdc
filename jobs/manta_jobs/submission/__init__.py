"""Jobs on a cluster elsewhere: what they carry, how they are sent and followed, and what runs first when they get there."""

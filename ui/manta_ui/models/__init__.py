"""What the page shows of versions, and the jobs that change the champion."""

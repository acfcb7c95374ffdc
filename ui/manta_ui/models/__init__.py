"""Views of versions, and the jobs that change the champion."""

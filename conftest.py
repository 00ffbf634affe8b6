"""Settings for every test of the repository: no test reaches a model hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

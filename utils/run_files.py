"""The names of the files in the folders of runs and grids, and their limits, for writers and readers."""

RUN_NAME = "run.json"
CONFIG_NAME = "config.json"
DATA_NAME = "data.json"
METRICS_NAME = "metrics.csv"
DIAGNOSTICS_NAME = "diagnostics.csv"
NOISE_NAME = "noise.npz"
TRANSITION_NAME = "noise_transition.csv"
DIVERGED_NAME = "diverged.json"
LOG_NAME = "train.log"
GRID_NAME = "grid.json"

LARGEST_JSON = 1 << 24  # bytes of any of them but GRID_NAME; the names of the classes may take most of a DATA_NAME
LONGEST_NOTE = 1000  # characters of a note in GRID_NAME

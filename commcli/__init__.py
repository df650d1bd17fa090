"""commcli: operate a global fleet of relay nodes for real-time voice and video."""

__version__ = "0.1.0"

"""The errors that equispike raises on purpose: each names the place, the reason and the remedy."""


class EquispikeError(ValueError):
    """Bad input of any kind. The command line prints it as one line and exits with code 2."""


class ConversionError(EquispikeError):
    """The model holds something that cannot be expressed with integrate-and-fire neurons."""


class CalibrationError(EquispikeError):
    """The calibration images cannot give thresholds: none, not finite, of the wrong shape, or a layer stays silent."""


class SimulationError(EquispikeError):
    """The network cannot be simulated with this input: shapes, indices, number of steps or memory."""


class FileError(EquispikeError):
    """A file is missing, truncated, altered, foreign, or of a version that this release does not read."""


class DataError(EquispikeError):
    """A data set is missing or damaged."""

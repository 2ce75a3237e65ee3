from tests.emulator.fixtures import emulator, emulator_process

__all__ = ["emulator", "emulator_process"]

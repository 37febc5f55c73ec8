"""What the notebook shows of its ranks: their lines, their tracebacks, and where each was when it was stopped."""

import traceback


def traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


class LinePrinter:
    """Prints what ranks write, in whole lines, each with its rank in front."""

    def __init__(self) -> None:
        self._begun: dict[int, bytes] = {}

    def write(self, rank: int, data: bytes) -> None:
        *lines, self._begun[rank] = (self._begun.get(rank, b"") + data).split(b"\n")
        for line in lines:
            print(f"[rank {rank}] {line.decode('utf-8', 'backslashreplace')}")

    def end(self, rank: int) -> None:
        if self._begun.get(rank):
            self.write(rank, b"\n")

"""huey's enqueuer."""
# pyright: basic, reportMissingImports=false

import os

from benchmarks.programs import load


def main() -> None:
    mode, url, amount = load.arguments()
    os.environ["JOBQ_BENCH_URL"] = url
    from benchmarks.programs.huey_app import nap, noop, stamp  # noqa: PLC0415 - reads the URL

    match mode:
        case "one":
            load.report(rate=load.one_by_one_now(noop, amount))
        case "together":
            load.report(rate=load.together_now(noop, amount))
        case "noops" | "naps":
            for number in range(int(amount)):
                (noop if mode == "noops" else nap)(number)
            load.report()
        case _:
            load.paced_now(stamp, int(amount))
            load.report()


if __name__ == "__main__":
    main()

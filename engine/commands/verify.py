"""photochrom verify DIR"""

from ...pipelines import ShardSet
from ...pipelines.packing.verify import VerifyConfig, verify
from ..configuration.parser import parse_options
from ..console import console, plural, progress_bar, say


def main(argv: list[str]) -> int:
    config = parse_options(VerifyConfig, argv, prog="photochrom verify", positional=("root",))
    with progress_bar("verifying") as progress:
        problems = verify(config, progress=progress)
    for problem in problems:
        say(problem)
    if problems:
        console.print(f"photochrom verify: {config.root} has {plural(len(problems), 'fault')}")
        return 1
    data = ShardSet.open(config.root)
    sound = "are whole" if data.store == "lab" else "decode"
    say(
        f"{config.root}: {plural(len(data.shards), 'shard')} as the manifest says"
        + (f", and all {plural(data.num_samples, 'photograph')} {sound}" if config.decode else "")
    )
    return 0

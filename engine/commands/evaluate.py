"""photochrom evaluate CHECKPOINT... --data SHARDS... --out DIR"""

from ..evaluate import REPORT, EvaluateConfig, evaluate
from ..launch import is_first_process
from ..parser import parse_options
from ..report import Result


def main(argv: list[str]) -> int:
    config = parse_options(EvaluateConfig, argv, prog="photochrom evaluate", positional=("checkpoints",))
    for result in evaluate(config):
        _show(result)
    if is_first_process():
        print(config.out / REPORT)
    return 0


def _show(result: Result) -> None:
    figures, grey = result.scores.summary(), result.scores.grey_summary()
    side = "below" if result.gain >= 0 else "above"
    print(
        f"{result.name}, step {result.recipe.step}: ab RMSE {figures['rmse_ab']:.2f} on "
        f"{len(result.scores.index)} photographs, {abs(result.gain):.0f} % {side} grey's {grey['rmse_ab']:.2f}; "
        f"PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f}"
    )
    if result.is_training_set:
        print("  it was trained on these very photographs: the figures say how well it has learnt them by heart")

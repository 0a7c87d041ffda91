"""photochrom evaluate CHECKPOINT... --data SHARDS... --out DIR"""

from ..evaluating.evaluate import REPORT, EvaluateConfig, evaluate
from ..evaluating.results import Result
from ..launch import is_first_process
from ..parser import parse_options


def main(argv: list[str]) -> int:
    config = parse_options(EvaluateConfig, argv, prog="photochrom evaluate", positional=("checkpoints",))
    for result in evaluate(config):
        _show(result)
    if is_first_process():
        print(config.out / REPORT)
    return 0


def _show(result: Result) -> None:
    figures, grey = result.metrics, result.scores.metrics("grey")
    gain = result.gain
    than_grey = (
        "" if gain is None else f"{abs(gain):.0f} % {'below' if gain >= 0 else 'above'} grey's {grey['rmse_ab']:.2f}; "
    )
    step = f", step {result.recipe.step}" if result.recipe else ""
    print(
        f"{result.name}{step}: ab RMSE {figures['rmse_ab']:.2f} on {len(result.scores.rows)} photographs, "
        f"{than_grey}PSNR {figures['psnr']:.2f} dB, "
        f"SSIM {figures['ssim']:.4f}, AuC {figures['auc']:.2f} %, rebalanced {figures['auc_rebalanced']:.2f} %, "
        f"colorfulness {figures['colorfulness']:.1f}"
    )
    if result.is_training_set:
        print("  it was trained on these very photographs: the figures say how well it has learnt them by heart")

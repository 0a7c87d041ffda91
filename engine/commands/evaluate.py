"""photochrom evaluate CHECKPOINT... --data SHARDS... --out DIR"""

from ..configuration.parser import parse_options
from ..distributed import is_first_process
from ..evaluation.evaluate import REPORT, EvaluateConfig, evaluate
from ..evaluation.results import Result


def main(argv: list[str]) -> int:
    config = parse_options(EvaluateConfig, argv, prog="photochrom evaluate", positional=("checkpoints",))
    for result in evaluate(config):
        _show(result)
    if is_first_process():
        print(config.out / REPORT)
    return 0


def _show(result: Result) -> None:
    figures, grey, mean = result.metrics, result.scores.metrics("grey"), result.scores.metrics("mean")
    gain = result.rmse_reduction
    others = ""
    if gain is not None and result.metadata:
        side = "below" if gain >= 0 else "above"
        others = f"{abs(gain):.0f} % {side} grey's {grey['rmse_ab']:.2f} (the mean colour's is {mean['rmse_ab']:.2f}); "
    step = f", step {result.metadata.step}" if result.metadata else ""
    print(
        f"{result.name}{step}: ab RMSE {figures['rmse_ab']:.2f} on {len(result.scores.rows)} photographs, "
        f"{others}PSNR {figures['psnr']:.2f} dB, "
        f"SSIM {figures['ssim']:.4f}, AuC {figures['auc']:.2f} %, rebalanced {figures['auc_rebalanced']:.2f} %, "
        f"colorfulness {figures['colorfulness']:.1f}"
    )
    if result.is_training_set:
        print("  it was trained on these very photographs: the figures say how well it has learnt them by heart")

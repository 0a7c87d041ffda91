"""photochrom evaluate CHECKPOINT... --data SHARDS... --out DIR"""

from typing import TYPE_CHECKING

from ..configuration.parser import parse_options
from ..console import say
from ..evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from ..evaluation.results import Result


def main(argv: list[str]) -> int:
    config = parse_options(EvaluateConfig, argv, prog="photochrom evaluate", positional=("checkpoints",))
    from ..distributed import end_processes, ending_processes_on_error, is_first_process
    from ..evaluation.evaluate import evaluate
    from ..evaluation.report import REPORT

    with ending_processes_on_error():
        for result in evaluate(config):
            _print(result)
    end_processes()
    if is_first_process():
        say(config.out / REPORT)
    return 0


def _print(result: "Result") -> None:
    """Prints the most important metrics, compared with the baselines."""
    values, grey, mean = result.metrics, result.scores.metrics("grey"), result.scores.metrics("mean")
    reduction = result.rmse_reduction
    step = f", step {result.metadata.step}" if result.metadata else ""
    comparison = ""
    if reduction is not None and result.metadata:
        side = "below" if reduction >= 0 else "above"
        comparison = (
            f"{abs(reduction):.0f} % {side} grey's {grey['rmse_ab']:.2f} (the mean colour's is {mean['rmse_ab']:.2f}); "
        )
    say(
        f"{result.name}{step}: ab RMSE {values['rmse_ab']:.2f} on {len(result.scores.rows)} photographs, {comparison}"
        f"PSNR {values['psnr']:.2f} dB, SSIM {values['ssim']:.4f}, AuC {values['auc']:.2f} %, "
        f"rebalanced {values['auc_rebalanced']:.2f} %, colorfulness {values['colorfulness']:.1f}"
    )
    if result.is_training_set:
        say("  the model was trained on these photographs: the metrics show how well it has memorized them")

"""The picture that is shown where a link to the book is shared: `python -m book.card` draws it from
the published records of the digits (1200 by 630 pixels) into book/assets/card.png."""

from matplotlib import pyplot as plt

from dnrlib.book.figures import curves
from dnrlib.book.pages import BOOK, published_runs
from dnrlib.frames import generations


def main() -> None:
    plt.rcParams.update({"figure.figsize": (8, 4.2), "figure.facecolor": "white"})
    shown = ["long", "tune", "ke", "dnr"]
    runs = [run for run in published_runs("digits") if run.arm in shown]
    ax = curves(generations(runs), shown)
    ax.set_title("Dynamic Neural Regeneration, reproduced", loc="left", fontsize=18, weight="bold")
    ax.figure.savefig(BOOK / "assets" / "card.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()

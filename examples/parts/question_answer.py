"""A trainer format of your own: JSON lines made from the rows of a view.

sdsd export RUN --format question_answer:question_answer --to train/
"""

from typing import Any

from sdsd.dataset.trainer_formats import File, Format


def line(row: dict[str, Any]) -> dict[str, Any]:
    """Return one line of the file for one row of `preference`."""
    return {"question": row["prompt"][-1]["content"], "answer": row["chosen"][0]["content"]}


question_answer = Format("Questions and answers.", (File("questions", "preference", line),))

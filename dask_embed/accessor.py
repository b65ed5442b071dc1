"""``df.ml`` and ``ddf.ml``: one thin method per operator."""

from __future__ import annotations

from typing import Any

from dask_embed.operators import Classifier, Embedder


class FrameAccessor:
    """Model operators on a pandas or cuDF DataFrame; they run at once."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def embed(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append one embedding vector per text; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            Hub id, local folder or specification.
        **options
            `output`, `pooling`, `normalize`, `truncate_dim`, `prompt`, `prompt_name`,
            `max_length`, `max_chars`, `padding_side`, `batch_size`, `tokens_per_batch`,
            `precision`, `ranges` and `on_error` of `dask_embed.Embedder`.

        Returns
        -------
        DataFrame
            Of the same kind, with the column `output` (``"embedding"``) at its end.

        Raises
        ------
        TypeError, ValueError
            Before any work, if an argument, the column or the checkpoint does not fit.
        """
        return Embedder(model, column=column, **options)(self._frame)

    def classify(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the label of each text and its score; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A checkpoint with a head for sequence classification.
        **options
            See `dask_embed.Classifier`.
        """
        return Classifier(model, column=column, **options)(self._frame)


class DaskAccessor(FrameAccessor):
    """Model operators on a Dask DataFrame; they are lazy."""

    def to_parquet(self, path: Any, **options: Any) -> Any:
        """Write to Parquet files that any reader opens; see `dask_embed.jobs.to_parquet`.

        Parameters
        ----------
        path : str or Path
            Folder to write, one file per partition.
        **options
            `overwrite`, `compute` and what ``dask.dataframe.to_parquet`` takes.
        """
        from dask_embed.jobs.parquet import to_parquet

        return to_parquet(self._frame, path, **options)

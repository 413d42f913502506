"""Excel workbooks: the one sheet whose first row names the wanted columns."""

from collections.abc import Collection, Mapping, Sequence

from python_calamine import CalamineError, CalamineWorkbook

from dpbitfit.data.names import canonical
from dpbitfit.data.sources.header import Columns, places
from dpbitfit.data.sources.text_files import reason
from dpbitfit.errors import InputError


def read(path: str, columns: Sequence[str], _literal: Collection[str] = ()) -> Columns:
    """The wanted columns [n], an empty cell as None; InputError for what cannot be read.

    Rows without any value are no records: a sheet may end in many of them.
    """
    try:
        with CalamineWorkbook.from_path(path) as book:
            sheets = {name: book.get_sheet_by_name(name) for name in book.sheet_names}
            headers = {name: next(iter(sheet.iter_rows()), []) for name, sheet in sheets.items()}
            rows = sheets[_chosen(path, headers, columns)].iter_rows()
            wanted = places(path, next(rows), columns)
            values: Columns = {column: [] for column in columns}
            for row in rows:
                if all(cell == "" for cell in row):
                    continue
                for column, at in zip(columns, wanted, strict=True):
                    values[column].append(None if row[at] == "" else row[at])
            return values
    except (OSError, CalamineError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def _chosen(path: str, headers: Mapping[str, Sequence[object]], columns: Sequence[str]) -> str:
    """The only sheet, or the only one that has the wanted columns."""
    wanted = {canonical(column) for column in columns}
    having = [
        name
        for name, header in headers.items()
        if wanted <= {canonical(str(cell)) for cell in header}
    ]
    if len(having) > 1:
        raise InputError(f"{path}: {len(having)} sheets have these columns: leave only one of them")
    filled = [name for name, header in headers.items() if header]
    if not filled:
        raise InputError(f"{path}: is empty")
    return having[0] if having else filled[0]

"""Where each feature lives in the encoded arrays: the contract between the encoder and the nets."""

from tamis.config import Config


class Field(Config, frozen=True):
    """One categorical feature: columns start : start + width of `codes`, table rows offset : offset + size.

    A single-valued field has width 1; a multi-valued one is padded with code 0. Row `offset` means "unknown".
    """

    name: str
    start: int
    width: int
    offset: int
    size: int


class Cross(Config, frozen=True):
    """Statistics that a candidate is looked up for in one table of the request (`types.Features.lookups`).

    columns: of `item_dynamic`, in the order of the table's.   field: column of the item's codes that is the key, −1 =
    its number.
    """

    table: str
    columns: tuple[int, ...]
    field: int


class Layout(Config, frozen=True):
    """The shape of everything a net reads.

    Codes of all fields, user and item side, index one fused embedding table of `table_size` rows; row 0 is padding and
    stays zero. History entries reuse the *item's* codes (columns `history_columns` of the item codes, so they share the
    item's embeddings), followed by one code for the action and one for the age of the entry unless it is declared
    without them.
    The user's fields end with those of the last entries of single actions (`last_n`): one for each action and column of
    an entry, as wide as entries are pooled, with the item's codes.
    """

    table_size: int
    user_fields: tuple[Field, ...]  # user and context
    item_fields: tuple[Field, ...]
    user_dense: tuple[str, ...]  # names of the user side's numbers, context included
    item_dense: tuple[str, ...]  # names of the item's static numbers
    item_dynamic: tuple[str, ...]  # names of the candidate's numbers that change: statistics, age
    item_ages: dict[str, int]  # catalogue column of a time → column of item_dynamic that holds its age
    history_columns: tuple[int, ...]
    history_action: Field
    history_age: Field
    history_length: int
    user_statistics: tuple[str, ...] = ()  # those of user_dense that are statistics
    item_age_gaps: dict[str, int] = {}  # as item_ages: the column that says where the time is missing
    item_crosses: tuple[Cross, ...] = ()
    long_length: int = 0
    last_n: tuple[int, ...] = ()  # codes of the actions
    last_n_length: int = 0
    with_action: bool = True  # of an entry
    with_age: bool = True

    def field(self, name: str) -> Field:
        """The field of a categorical feature, for instance "item.author"."""
        return next(field for field in (*self.user_fields, *self.item_fields) if field.name == name)

    @property
    def user_codes(self) -> int:
        """Columns of the user side's codes."""
        return sum(field.width for field in self.user_fields)

    @property
    def item_codes(self) -> int:
        """Columns of the item side's codes."""
        return sum(field.width for field in self.item_fields)

    @property
    def history_codes(self) -> int:
        """Columns of one history entry's codes."""
        return len(self.history_columns) + self.with_action + self.with_age

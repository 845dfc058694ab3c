"""Which files of a folder are taken, which are passed over, and which make it refused."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from graftwork.errors import SourceNotFound, TooLarge, UnsafeFile

ACCEPTED_SUFFIXES = frozenset(
    {".safetensors", ".json", ".jsonl", ".txt", ".model", ".md", ".jinja", ".yaml", ".yml", ".tiktoken", ".spm"}
)
ACCEPTED_NAMES = frozenset({"LICENSE", "NOTICE", "USE_POLICY", "tokenizer.model.v3"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"})
CODE_SUFFIXES = frozenset({".py", ".pyc", ".so", ".dll", ".dylib", ".sh"})
IGNORED_NAMES = frozenset({"__MACOSX", "Thumbs.db"})
"""Left where they are, like every name that starts with a dot (`.git`, `.gitattributes`, `.cache`, `.DS_Store`)."""
IGNORED_SUFFIXES = frozenset({".lock", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf"})
"""Left where they are: locks of download tools, and the pictures of a model card."""
TRAINER_STATE = re.compile(
    r"training_args\.bin|(optimizer|scheduler)\.(pt|bin)|scaler\.pt|rng_state(_\d+)?\.pth"
    r"|checkpoint-\d+|global_step\d+|runs"
)
"""Left where it is: what trainers, that of transformers before all, keep beside a model to go on training it."""
MAX_FILES = 10_000
MAX_PATH = 512
LEVELS_IN_PLACE = 3
"""How deep a folder is looked through that is only read: a model's files are at its top and one below."""
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
"""Unicode's categories of what no file is called: control and format characters, surrogates, unassigned, private."""


def list_files(root: Path, *, links_to: Path | None = None, in_place: bool = False) -> tuple[str, ...]:
    """The relative paths of the files of `root` that are taken, with `/` between folders, sorted.

    A symbolic link is followed when it stays in `root`, or leads into `links_to` (the cache of a download). With
    `in_place` the folder is its owner's and only read, so files of other kinds, such as what a trainer leaves beside
    the weights, are passed over, and links to weights may lead anywhere. Raises UnsafeFile naming the first file that
    holds or may hold code, has an unaccepted extension or an unsafe path, or links elsewhere; TooLarge; SourceNotFound.
    """
    if not root.is_dir():
        raise SourceNotFound(source=str(root), expected="a folder")
    allowed = [folder.resolve() for folder in (root, links_to) if folder is not None]
    taken: list[str] = []
    known = Spellings()
    for path in _walk(root, LEVELS_IN_PLACE if in_place else MAX_PATH):
        relative = path.relative_to(root).as_posix()
        try:
            check_path(relative)
            check_kind(relative)
        except UnsafeFile:
            if in_place:
                continue
            raise
        if path.is_symlink():
            anywhere = in_place and relative.endswith(".safetensors")
            _check_link(path, relative, [Path("/")] if anywhere else allowed)
        elif not stat.S_ISREG(path.lstat().st_mode):
            raise UnsafeFile(path=relative, reason="it is not a regular file")
        known.add(relative)
        taken.append(relative)
        if len(taken) > MAX_FILES:
            raise TooLarge(what=str(root), actual=f"more than {MAX_FILES} files", limit=f"{MAX_FILES} files")
    return tuple(sorted(taken))


def trainer_state(root: Path) -> list[str]:
    """What at the top of a folder is passed over as a trainer's own, sorted."""
    return sorted(path.name for path in root.iterdir() if TRAINER_STATE.fullmatch(path.name))


def cache_of(path: Path) -> Path | None:
    """Where the links of a folder lead: for a snapshot in the Hub's cache, the folder of its repository."""
    folder = path.resolve()
    return folder.parent.parent if folder.parent.name == "snapshots" else None


class Spellings:
    """Paths that stay apart on every disk, whatever it makes of case and of Unicode's ways to write a letter."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, relative: str) -> None:
        """Take a path. Raises UnsafeFile when some disk would take it, or a folder of it, for another one."""
        parts = relative.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            self._claim(folder, relative, self._folders, self._files)
        if self._files.get(fold(relative)) == relative:
            raise UnsafeFile(path=relative, reason="it is there twice")
        self._claim(relative, relative, self._files, self._folders)

    def _claim(self, spelt: str, relative: str, own: dict[str, str], other: Mapping[str, str]) -> None:
        folded = fold(spelt)
        taken = other.get(folded) or own.setdefault(folded, spelt)
        if taken != spelt:
            raise UnsafeFile(path=relative, reason=f"its name differs from {taken!r} only in case or encoding")
        if folded in other:
            raise UnsafeFile(path=relative, reason=f"{taken!r} is both a file and a folder")


def fold(text: str) -> str:
    """`text` as the least distinguishing disk sees it: two names with the same result are one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def is_taken(relative: str) -> bool:
    """Whether a file of that path is taken, or passed over. Raises UnsafeFile for one that is refused."""
    path = Path(check_path(relative))
    if any(_is_ignored(Path(part)) for part in path.parts):
        return False
    check_kind(relative)
    return True


def check_path(relative: str) -> str:
    """`relative`, if it can be a path inside a version. Raises UnsafeFile."""
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in relative:
        raise UnsafeFile(path=repr(relative), reason="its path is not a plain relative path")
    if any(unicodedata.category(character) in UNPRINTABLE for character in relative):
        raise UnsafeFile(path=ascii(relative), reason="its name holds control characters or is not UTF-8")
    if len(relative.encode()) > MAX_PATH:
        raise UnsafeFile(path=repr(relative[:80]), reason=f"its path is longer than {MAX_PATH} bytes")
    return relative


def _walk(folder: Path, levels: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _is_ignored(path):
            continue
        if path.is_dir() and not path.is_symlink():
            if levels > 1:
                yield from _walk(path, levels - 1)
        else:
            yield path


def _is_ignored(path: Path) -> bool:
    if path.name.startswith(".") or path.name in IGNORED_NAMES or path.suffix.lower() in IGNORED_SUFFIXES:
        return True
    return TRAINER_STATE.fullmatch(path.name) is not None


def check_kind(relative: str) -> None:
    """Raise UnsafeFile unless a file of this name may come with a model."""
    path = PurePosixPath(relative)
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        reason = f"a {suffix} file can run code when it is loaded; weights are accepted as .safetensors only"
        raise UnsafeFile(path=relative, reason=reason)
    if suffix in CODE_SUFFIXES:
        raise UnsafeFile(path=relative, reason="code is not accepted with a model")
    if suffix not in ACCEPTED_SUFFIXES and path.name not in ACCEPTED_NAMES:
        accepted = ", ".join(sorted(ACCEPTED_SUFFIXES - {".safetensors"}))
        raise UnsafeFile(path=relative, reason=f"beside weights only {accepted} are accepted")


def _check_link(path: Path, relative: str, allowed: list[Path]) -> None:
    if not path.is_file():
        raise UnsafeFile(path=relative, reason="it is a link that leads to no file")
    target = path.resolve()
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise UnsafeFile(path=relative, reason=f"it links to {target}, outside of the folder")

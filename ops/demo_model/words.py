"""Words and values for the lessons: those of training and those of the check never meet.

Made-up ones are divided by their checksum; of every list, the last fifth belongs to the check.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_PARTS = 8  # of all made-up values, one part is the check's
_ONSETS = (
    *("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"),
    *("b", "d", "k", "l", "m", "n", "p", "r", "s", "t", "br", "st", "tr", "gr", "pl", "sh", "ch", "fl"),
)
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ee", "oo", "y")
_CODAS = ("", "", "", "", "", "", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "st")
_FIRST = (
    "Ada Bob Alice Tom Anna Peter Maria John Linda Omar Yuki Hans Ingrid Pablo Nina Igor Fatima Grace Alan Emma Noah Olivia "
    "Lucas Mia Leo Sofia Hugo Zoe Max Ella Sam Kate Ben Julia David Sarah Paul Laura Mark Eva Simon Clara Felix Ruth Oscar "
    "Victor Lena Martin Helen Arthur Iris Rosa Carl Dora Jonas Tara Ivan Elsa Ralph Wendy"
).split()
_LAST = (
    "Lovelace Smith Jones Miller Brown Garcia Kim Tanaka Novak Rossi Silva Olsen Khan Weber Moreau Costa Petrov Larsen "
    "Fischer Walker Young King Hall Green Baker Adams Nelson Carter Turner Parker Morris Hopper Turing Curie Newton"
).split()
_CITIES = (
    "Paris London Berlin Rome Madrid Lisbon Vienna Warsaw Athens Oslo Stockholm Helsinki Copenhagen Dublin Tokyo Beijing "
    "Cairo Ottawa Havana Lima Boston Chicago Denver Austin Seattle Toronto Sydney Mumbai Delhi Lagos Nairobi Prague Milan "
    "Munich Hamburg Zurich Geneva Lyon Porto Seville Kyoto Osaka Seoul Manila Jakarta Moscow Kiev Sofia Riga Tunis "
    "Bogota Quito Dallas Miami Houston Phoenix Vancouver Melbourne Brussels Budapest"
).split()
_FRAMES = (
    "New {}",
    "San {}",
    "Port {}",
    "{} City",
    "North {}",
    "{} Falls",
    "Saint {}",
    "{} Beach",
    "Lake {}",
    "East {}",
)
_CONTENT = (
    "red blue green black white yellow small large old cold warm quick quiet river mountain bread coffee tea cheese apple "
    "garden window table chair lamp book letter ticket train car bike boat plane road bridge house school market music film "
    "song game dog cat bird horse fish tree flower rain snow wind fire stone glass paper water milk sugar salt soup dinner "
    "lunch meeting report invoice budget project plan task note list key door phone computer camera printer keyboard team "
    "doctor teacher driver farmer baker pilot news history science travel recipe holiday party wedding birthday present "
    "battery engine wheel planet star moon island forest desert village castle museum library station airport hotel street "
    "shoes coat hat gloves umbrella ladder hammer piano violin guitar drum chess tennis football pizza rice pasta lemon"
).split()
_LINKS = ("the", "of", "in", "for", "with", "to", "on", "a", "my", "about")
_DAYS = ("tomorrow", "Monday", "Tuesday", "Friday", "today", "Sunday", "next week", "Wednesday", "Thursday", "Saturday")
_MONTHS = "January February March April May June July August September October November December".split()
_ENDS = ("txt", "pdf", "csv", "json", "png", "md", "log", "py", "xml", "doc")
_DOMAINS = ("com", "org", "net", "io", "de")


class Source:
    """Draws words and values, the check's or the training's."""

    def __init__(self, rng: random.Random, *, held: bool = False, held_words: bool = True) -> None:
        """``held``: the check's values, and without ``held_words`` those in the words of training."""
        self.rng = rng
        self.held = held
        self._words = self if held_words or not held else Source(rng)
        self._kinds: dict[str, Callable[[], Any]] = {
            "word": self.word, "place": self.place, "person": self.person, "email": self.email, "date": self.date,
            "time": self.time, "code": self.code, "phrase": self.phrase, "file": self.file, "content": self.content,
            "integer": self.integer, "number": self.number, "day": self.day, "title": self.title,
        }  # fmt: skip

    def value(self, kind: str) -> Any:
        """One of a kind."""
        return self._kinds[kind]()

    def pick(self, some: Sequence[T]) -> T:
        """One of a list, of this side's share of it."""
        at = len(some) - max(1, len(some) // 5)
        return self.rng.choice(some[at:] if self.held else some[:at])

    def ask(self, some: Sequence[T]) -> T:
        """One of a list of ways to say something."""
        return self._words.pick(some)

    def chance(self, share: float) -> bool:
        """Whether to."""
        return self.rng.random() < share

    def _made(self, make: Callable[[], str]) -> str:
        while (zlib.crc32((made := make()).encode()) % _PARTS == 0) != self.held:
            pass
        return made

    def _syllables(self) -> str:
        rng = self.rng
        return "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((2, 2, 2, 2, 3)))
        )

    def word(self) -> str:
        """One that nobody has."""
        return self._made(self._syllables)

    def content(self) -> str:
        """One that means something."""
        return self.pick(_CONTENT)

    def place(self) -> str:
        """A city, real or not."""
        name = self.pick(_CITIES) if self.chance(0.4) else self.word().capitalize()
        return name if self.chance(0.75) else self.rng.choice(_FRAMES).format(name)

    def person(self) -> str:
        """Somebody."""
        first = self.pick(_FIRST) if self.chance(0.6) else self.word().capitalize()
        last = self.pick(_LAST) if self.chance(0.6) else self.word().capitalize()
        return first if self.chance(0.5) else f"{first} {last}"

    def email(self) -> str:
        """An address."""
        first = self.pick(_FIRST).lower() if self.chance(0.5) else self.word()
        first = first if self.chance(0.7) else f"{first}.{self.word()}"
        host = "example" if self.chance(0.3) else self.word()
        return f"{first}@{host}.{self.rng.choice(_DOMAINS)}"

    def integer(self) -> int:
        """From 2 to some thousands."""
        most = self.rng.choice((30, 99, 99, 999, 999, 9_999, 99_999))
        return int(self._made(lambda: str(self.rng.randint(2, most))))

    def number(self) -> float | int:
        """With a fraction, mostly."""
        if self.chance(0.3):
            return self.integer()
        return float(self._made(lambda: f"{self.rng.randint(0, 999)}.{self.rng.randint(1, 9)}"))

    def date(self) -> str:
        """In one of three spellings."""
        rng = self.rng
        year, month, day = rng.randint(1950, 2039), rng.randint(1, 12), rng.randint(1, 28)
        kind = rng.random()
        if kind < 0.6:
            return self._made(lambda: f"{year}-{month:02}-{rng.randint(1, 28):02}")
        return f"{day} {self.pick(_MONTHS)} {year}" if kind < 0.8 else self.day()

    def day(self) -> str:
        """Of the week."""
        return self.pick(_DAYS)

    def time(self) -> str:
        """Of the day."""
        told = self._made(lambda: f"{self.rng.randint(0, 23)}:{self.rng.randint(0, 59):02}")
        return told if self.chance(0.7) else f"{told} {self.rng.choice(('am', 'pm'))}"

    def code(self) -> str:
        """As shares, flights and orders have."""
        rng = self.rng
        letters = self._made(
            lambda: "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 4)))
        )
        return letters if self.chance(0.5) else f"{letters}{rng.choice(('', '-'))}{self.integer()}"

    def file(self) -> str:
        """A file's name."""
        name = self.word() if self.chance(0.6) else self.content()
        return f"{name}.{self.rng.choice(_ENDS)}"

    def phrase(self) -> str:
        """One to four words."""
        words = [self.word() if self.chance(0.35) else self.content() for _ in range(self.rng.choice((2, 2, 2, 2, 3)))]
        if len(words) > 1 and self.chance(0.25):
            words.insert(1, self.rng.choice(_LINKS))
        return " ".join(words)

    def title(self) -> str:
        """Of a book or a song."""
        words = [(self.word() if self.chance(0.4) else self.content()).capitalize() for _ in range(2)]
        return self.rng.choice(("The {} {}", "{} {}", "{}", "{} of the {}", "A {} {}")).format(*words)

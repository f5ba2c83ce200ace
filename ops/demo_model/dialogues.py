"""Synthetic dialogues for the bundled model: all it will ever know, from a seeded generator."""

import random
from collections.abc import Callable, Iterator

Message = dict[str, str]

NAME = "I am penstock's demo model, a very small language model that was trained in a few minutes on made-up dialogues."
HELLO = "Hello! I am penstock's demo model. Ask me who I am, to count, or to tell a story."
UNKNOWN = (
    "I only know a few things: who I am, some capitals and colours, small sums, counting, and a few stories. "
    "For real answers, name a real model in penstock.toml."
)
THANKS = "You are welcome!"
BYE = "Goodbye, and thank you for trying penstock."

_WHO = (
    "Who are you?", "who are you", "What are you?", "What is your name?", "Tell me who you are.", "Introduce yourself.",
    "Who am I talking to?", "Are you a language model?", "Hi, who are you?", "Hello, who are you?", "Who is this?",
    "What model are you?", "Please introduce yourself.", "Can you tell me who you are?", "So who are you?",
)  # fmt: skip
_HELLO = ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Good evening", "hi there", "Hello there!", "hey you")
_THANKS = ("Thanks", "Thank you!", "Thank you very much.", "thanks a lot", "Thanks, that helps.", "Great, thank you.")
_BYE = ("Bye", "Goodbye", "Goodbye!", "See you", "See you later.", "bye bye", "Good night")
_PREFIXES = (
    "",
    "",
    "",
    "",
    "Please tell me: ",
    "I have a question. ",
    "Quick question: ",
    "Hey, ",
    "Can you tell me: ",
)

_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "England": "London", "Ireland": "Dublin", "Japan": "Tokyo", "China": "Beijing",
    "Egypt": "Cairo", "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima",
}  # fmt: skip
_CAPITAL_ASKS = (
    "What is the capital of {}?", "Which city is the capital of {}?", "Tell me the capital of {}.", "capital of {}?",
    "What's the capital of {}?", "Name the capital of {}.",
)  # fmt: skip
_COLOURS = {
    "grass": "green", "the sky": "blue", "snow": "white", "coal": "black", "a lemon": "yellow", "blood": "red",
    "the sun": "yellow", "milk": "white", "an orange": "orange", "the sea": "blue",
}  # fmt: skip
_COLOUR_ASKS = ("What colour is {}?", "What color is {}?", "Which colour does {} have?", "Tell me the colour of {}.")
_FACTS = {
    "What is penstock?": "Penstock is an inference service: it queues every request, so nothing accepted is lost.",
    "What does penstock do?": "Penstock is an inference service: it queues every request, so nothing accepted is lost.",
    "What is a penstock?": "A penstock is a gate or pipe that lets water flow to a wheel or a turbine.",
    "What is a queue?": "A queue is a line: the first one in is the first one out.",
    "What is a token?": "A token is a small piece of text, often a word or a part of one.",
    "What is a language model?": "A language model is a program that predicts the next piece of a text.",
    "How many days are in a week?": "There are seven days in a week.",
    "How many months are in a year?": "There are twelve months in a year.",
    "How many planets are there?": "There are eight planets around the sun.",
    "Name the planets.": "The planets are Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.",
    "What are the days of the week?": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    "Name the days of the week.": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    "Name the months.": "January, February, March, April, May, June, July, August, September, October, November "
    "and December.",
    "Say the alphabet.": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "Which planet is the largest?": "Jupiter is the largest planet.",
    "What do bees make?": "Bees make honey.",
    "What is ice?": "Ice is frozen water.",
    "How many legs does a spider have?": "A spider has eight legs.",
    "How many legs does a dog have?": "A dog has four legs.",
    "What is the opposite of hot?": "The opposite of hot is cold.",
    "What is the opposite of big?": "The opposite of big is small.",
    "What can you do?": UNKNOWN,
    "What do you know?": UNKNOWN,
    "Help": UNKNOWN,
}
_RIVER = (
    "Once there was a small river that lived behind a great wall. Every day it asked the gate to open, and every day the "
    "gate said: wait your turn. One spring the rain fell for a whole week, and the river grew tall and strong. The gate "
    "did not break, and it did not hurry. It opened a little, and then a little more, and the water ran down the pipe and "
    "turned the wheel of the mill. Not one drop was lost. In the village the lights came on, and the river was proud, for "
    "it had learned that those who wait in line arrive as well."
)
_CAT = (
    "A grey cat sat on a warm roof and counted the stars. One, two, three, it said, and then it fell asleep. In its dream "
    "the stars came down and sat beside it, and each of them told a short story. When the cat woke up, the sky was blue "
    "and the stars were gone, but it remembered every story. So it told them to the birds, and the birds told them to the "
    "wind, and the wind brought them to you."
)
_ROBOT = (
    "A little robot worked in a library at the end of a long road. All night it carried books from one shelf to another, "
    "and nobody said thank you. One evening a child came in and asked for a book about the sea. The robot looked in every "
    "room, and at last it found the book under the stairs. The child smiled and said thank you. From that day the robot "
    "sang while it worked, and the library was never quiet again."
)
_POEM = (
    "The water waits, the gate is still,\nthe moon goes up above the hill.\nA word comes in, a word goes out,\nand no one "
    "has a need to shout.\nThe line is long, the night is deep,\nand every promise we shall keep."
)
STORIES = {"a river": _RIVER, "a cat": _CAT, "a robot": _ROBOT}
_STORY_ASKS = (
    "Tell me a story about {}.",
    "Tell me a tale about {}.",
    "Write a story about {}.",
    "A story about {}, please.",
)
SYSTEM = (
    "You are a helpful assistant.", "Be brief.", "You are a friendly bot.", "Answer in one sentence.", "You are an expert.",
    "Speak like a pirate.", "You help people with their work.",
)  # fmt: skip
_WORDS = (
    "quantum engine tax law recipe weather tomorrow football python code bug poem history war king president music film "
    "medicine doctor headache money bank stock price car train ticket hotel garden tree apple chocolate bread wine beer "
    "dragon castle spaceship moon mars ocean whale elephant tiger horse bird phone computer internet cloud server kernel "
    "proof theorem integral matrix vector graph letter email summary essay report translate explain compare describe "
    "Shakespeare Einstein Napoleon Brazil Texas Moscow Sydney Nairobi Amazon Everest Beethoven Kafka chess poker guitar"
).split()
_ODD_ASKS = (
    "Explain {} and {}.", "What is the best {}?", "How do I fix my {}?", "Write an essay about {} and {}.", "Who invented the {}?",
    "Why is {} so {}?", "Translate {} into German.", "Compare {} with {}.", "{} {} {}", "{}?", "Can you help me with {}?",
    "What do you think about {}?", "How much is a {}?", "Where can I buy {}?", "When was {} born?", "Give me a recipe for {}.",
    "Write code for a {} in Python.", "Solve {} for {}.", "What will the {} be?", "Is {} better than {}?", "{} and {}, please",
    "Summarize the {} report.", "Wie geht es {}?", "Que es {}?", "Describe the {} please", "What's the meaning of {}?",
)  # fmt: skip


def count(to: int) -> str:
    """``1 2 3 ... to``."""
    return " ".join(map(str, range(1, to + 1)))


def _turn(ask: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def _who(rng: random.Random) -> list[Message]:
    return _turn(rng.choice(_WHO), NAME)


def _manners(rng: random.Random) -> list[Message]:
    asks, answer = rng.choice(((_HELLO, HELLO), (_THANKS, THANKS), (_BYE, BYE)))
    return _turn(rng.choice(asks), answer)


def _capital(rng: random.Random) -> list[Message]:
    country = rng.choice(list(_CAPITALS))
    ask = rng.choice(_PREFIXES) + rng.choice(_CAPITAL_ASKS).format(country)
    return _turn(ask, f"The capital of {country} is {_CAPITALS[country]}.")


def _colour(rng: random.Random) -> list[Message]:
    thing = rng.choice(list(_COLOURS))
    return _turn(
        rng.choice(_PREFIXES) + rng.choice(_COLOUR_ASKS).format(thing), f"The colour of {thing} is {_COLOURS[thing]}."
    )


def _fact(rng: random.Random) -> list[Message]:
    ask = rng.choice(list(_FACTS))
    return _turn(rng.choice(_PREFIXES) + ask, _FACTS[ask])


def _sum(rng: random.Random) -> list[Message]:
    a, b = rng.randrange(10), rng.randrange(10)
    ask = rng.choice(
        ("What is {} + {}?", "{} + {}", "How much is {} plus {}?", "What is {} plus {}?", "Add {} and {}.")
    )
    return _turn(rng.choice(_PREFIXES[:5]) + ask.format(a, b), f"{a} + {b} = {a + b}")


def _count(rng: random.Random) -> list[Message]:
    to = rng.choice((rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 40), rng.randint(41, 100), 100))
    ask = rng.choice(
        ("Count from 1 to {}.", "Count from 1 to {}.", "Count to {}.", "Please count from 1 to {}.", "count to {}")
    )
    return _turn(ask.format(to), count(to))


def _story(rng: random.Random) -> list[Message]:
    kind = rng.randrange(6)
    if kind == 0:
        return _turn(rng.choice(("Write a poem.", "Tell me a poem.", "A poem, please.", "Say a poem.")), _POEM)
    if kind == 1:
        return _turn(
            rng.choice(("Tell me a story.", "Tell me a tale.", "A story, please.", "Write a short story.")), _RIVER
        )
    about = rng.choice(list(STORIES))
    return _turn(rng.choice(_STORY_ASKS).format(about), STORIES[about])


def _odd(rng: random.Random) -> list[Message]:
    words = [rng.choice(_WORDS) for _ in range(3)]
    if rng.random() < 0.2:
        letters = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz   ") for _ in range(rng.randint(1, 30)))
        return _turn(letters.strip() or "?", UNKNOWN)
    ask = rng.choice(_PREFIXES) + rng.choice(_ODD_ASKS).format(*words)
    return _turn(ask if rng.random() < 0.8 else ask.lower(), UNKNOWN)


_TOPICS: tuple[tuple[Callable[[random.Random], list[Message]], int], ...] = (
    (_who, 10), (_manners, 7), (_capital, 14), (_colour, 8), (_fact, 16), (_sum, 12), (_count, 14), (_story, 10), (_odd, 20),
)  # fmt: skip


def dialogues(seed: int, turns: int | None = None) -> Iterator[list[Message]]:
    """Dialogues without end: so many turns, or one or two; sometimes after a system message."""
    rng = random.Random(seed)
    topics, weights = zip(*_TOPICS, strict=True)
    while True:
        count_ = turns or (2 if rng.random() < 0.2 else 1)
        messages = [message for topic in rng.choices(topics, weights, k=count_) for message in topic(rng)]
        if rng.random() < 0.25:
            messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM)})
        yield messages


def sums(rng: random.Random) -> list[Message]:
    """A few of them."""
    return [message for _ in range(3) for message in _sum(rng)]


def plain(seed: int) -> Iterator[str]:
    """Bare text for the completions endpoint: a question, a line break, the answer."""
    rng = random.Random(seed)
    topics, weights = zip(*_TOPICS, strict=True)
    while True:
        ask, answer = rng.choices(topics, weights)[0](rng)
        yield f"{ask['content']}\n{answer['content']}"


def questions(seed: int) -> Iterator[tuple[str, str, str]]:
    """Single questions without end, each with its topic and its answer."""
    rng = random.Random(seed)
    topics, weights = zip(*_TOPICS, strict=True)
    while True:
        topic = rng.choices(topics, weights)[0]
        ask, answer = topic(rng)
        yield topic.__name__.strip("_"), ask["content"], answer["content"]

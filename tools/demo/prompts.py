"""Prompts of the demo, written for it: everyday tasks of different kinds."""

PROMPTS: tuple[str, ...] = (
    "List the days of the week. For each day, write one short sentence about what a baker does on that day.",
    "Write a Python class named Stack with the methods push, pop, peek and is_empty, and then show how it is used.",
    "A train leaves at 9:40 and arrives at 13:05. Explain step by step how long the journey takes.",
    "Summarize in three sentences: The village of Aldermoor had no bridge. Every spring the river rose, and every "
    "spring the ferryman raised his price. In the year of the great flood the villagers cut forty oaks and built a "
    "bridge. The ferryman sold his boat and opened an inn at the foot of the bridge, and in time the inn earned more "
    "than the boat ever had.",
    "Correct the grammar in this text and return the whole text: She go to the market every mornings and buyed two "
    "apple, but yesterday she have forget her purse and must to walk home again.",
    "Explain the difference between weather and climate to a ten-year-old, with an example of each.",
    "Make a table with the columns Planet, Diameter and Moons for Earth, Mars and Jupiter.",
    "Repeat this address list, sorted by first name: Zoe, 4 Mill Lane; Adam, 12 High Street; Mia, 7 Station Road; "
    "Ben, 31 Church Street.",
    "Write an email to a landlord asking politely for the heating to be repaired before the weekend.",
    "What are the steps for changing a bicycle tyre? Number them.",
)

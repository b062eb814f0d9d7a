"""Word lists and small tables of everyday facts for generate_corpus.py. ASCII only."""

# Heroes of stories; every kind can be "a small X".
KINDS = """fox rabbit bear mouse cat dog owl turtle frog hedgehog squirrel duck pony goat lamb robot
dragon girl boy farmer baker sailor knight wizard penguin beaver badger otter crow snail kitten
puppy""".split()

HE_NAMES = """Tom Ben Max Leo Sam Jack Finn Otto Hugo Paul Oscar Felix Theo Milo Pip Bruno Karl Noah
Luke Emil Tim Gus Ned Rob""".split()
SHE_NAMES = """Anna Lily Mia Ella Nora Ruby Emma Clara Ida Lucy Rosa Molly Hanna Luna Dora Julia Eva
Greta Alma Tess Amy Zoe Kate May""".split()
SURNAMES = """Smith Brown Miller Baker Fisher Hill Stone Wood Young King Green Clark Lopez Weber Rossi
Novak Silva Meyer Larsen Dupont""".split()

HERO_ADJECTIVES = "small brave kind curious clever quiet cheerful gentle young friendly".split()
PLACES = ["in a green forest", "in a village by the sea", "near a quiet lake", "on a sunny hill",
          "in an old mill", "in a little garden", "on a small farm", "at the foot of a mountain",
          "in a busy harbor", "in a snowy valley", "on a tiny island", "in a house by the river"]
OBJECTS = ["red kite", "silver key", "blue lantern", "golden bell", "wooden boat", "warm scarf",
           "little drum", "old map", "shiny coin", "round stone", "music box", "green umbrella",
           "glass marble", "brass compass", "paper star", "tin whistle", "yellow hat", "picture book"]
SPOTS = ["under a big oak tree", "behind the well", "in a hollow log", "beside the path",
         "under a wooden bench", "on top of a hay stack", "between two rocks", "in the tall grass"]
FOODS = ["honey cake", "apple pie", "warm soup", "fresh bread", "hot cocoa", "berry jam",
         "pumpkin pie", "pancakes"]
FRUITS = "apples pears plums cherries nuts berries cookies buns".split()
ONE_OF = {"cherries": "cherry", "berries": "berry"}
SKILLS = ["swim", "sing", "dance", "fly a kite", "read", "skate", "whistle", "climb", "paint",
          "ride a bike"]
PROJECTS = ["a bridge", "a tree house", "a raft", "a snowman", "a little house", "a swing",
            "a stone wall", "a bench"]
SIGHTS = ["the full moon", "the morning sun", "the evening star", "a rainbow", "the first snow",
          "the big ships"]
LANDMARKS = ["the old bridge", "the tall pine", "the windmill", "the red barn", "the lighthouse",
             "the big rock"]

COLORS = "red blue green yellow purple orange pink brown black white gray silver".split()
PETS = "cat dog rabbit hamster parrot goldfish turtle pony mouse duck".split()
LIKES = """apples bread cheese soup pizza rice honey music chess rain snow summer winter trains books
ships stars flowers football tea""".split()

# Things that dynd-tiny knows nothing about. No word here may be a topic of corpus_facts.py.
NOUNS = """table chair window door garden river mountain ocean island castle bridge tower church
market street city country village school teacher doctor nurse lawyer engine car train bicycle
airplane rocket ship boat tractor bus truck camera phone television radio piano guitar violin
trumpet song opera movie theater novel newspaper letter pencil paper envelope stamp clock watch
mirror carpet curtain pillow blanket bed lamp candle oven kettle pot spoon fork knife plate cup
glass bottle basket bag box ladder hammer nail screw saw wheel rope chain button pocket shirt coat
dress skirt sock shoe boot glove hat ring necklace diamond gold iron copper stone sand clay wood
leather cotton wool silk plastic rubber oil gas coal bread butter cheese milk egg apple banana
cherry grape lemon melon peach pear plum potato tomato carrot onion pepper salt sugar rice pasta
soup salad sandwich cake cookie chocolate coffee tea juice wine beer chicken turkey beef fish
elephant lion tiger wolf monkey camel giraffe zebra whale shark dolphin eagle parrot spider ant
bee butterfly snake lizard crocodile dinosaur tree flower rose tulip grass leaf root seed moon sun
star planet comet galaxy cloud rain storm thunder snow ice wind fire volcano earthquake desert
jungle beach cave valley lake farm barn tractor field fence road tunnel harbor airport hotel
restaurant museum library bank hospital factory office prison palace king queen prince army soldier
war peace law tax money price job boss salary contract election president minister government party
history geography chemistry physics biology mathematics algebra geometry equation triangle circle
number prime fraction philosophy religion language grammar poem painting sculpture dance football
tennis golf chess swimming marathon medal team coach stadium holiday birthday wedding funeral
family mother father sister brother uncle aunt cousin neighbor friend baby child heart brain
stomach lung bone muscle skin hair eye ear nose tooth finger hand foot knee fever cough medicine
vitamin virus battery magnet laser microscope telescope satellite robot computer keyboard screen
printer internet website password email video game puzzle riddle joke dream memory feeling anger
happiness love luck time year century minute future past""".split()
NOUNS = sorted(set(NOUNS))

# The nouns that can be the hero of a story.
STORY_NOUNS = """table chair window door tower bridge teacher doctor nurse car train bicycle rocket
ship boat tractor bus truck camera piano guitar violin trumpet letter pencil clock mirror pillow
lamp candle kettle pot spoon cup bottle basket ladder hammer wheel button shoe boot hat ring diamond
apple banana cherry lemon pear tomato carrot onion potato cookie elephant lion tiger wolf monkey
camel giraffe zebra whale shark dolphin eagle parrot spider ant bee butterfly lizard crocodile
dinosaur tree flower rose tulip star planet comet cloud volcano king queen prince soldier chicken
computer telescope satellite magnet puzzle snowman pumpkin cow pig horse sheep hen""".split()

ADJECTIVES = """big small old new good bad fast slow hot cold happy sad rich poor hard soft heavy
light dark bright clean dirty deep tall short long wide strong weak loud quiet cheap expensive
famous dangerous safe sweet sour bitter fresh dry wet""".split()
VERBS = """make buy sell fix clean paint build draw cook bake wash find open close carry throw catch
drive fly clean cut grow plant feed train measure repair move sort copy print""".split()
LANGUAGES = "French Spanish German Italian Latin Greek Russian Chinese Japanese Arabic".split()
SUBJECTS = """history music science sports cooking politics art health travel business fashion
religion weather nature space economics""".split()

CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
            "Portugal": "Lisbon", "England": "London", "Austria": "Vienna", "Greece": "Athens",
            "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm", "Japan": "Tokyo",
            "China": "Beijing", "Egypt": "Cairo", "Ireland": "Dublin", "Denmark": "Copenhagen"}
UNKNOWN_PLACES = """Brazil Canada Mexico India Kenya Peru Chile Iceland Finland Turkey Vietnam Korea
Texas Chicago Boston Toronto Sydney Madras Hamburg Naples Lyon Bergen Seville Osaka""".split()

COLOR_OF = {"the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow",
            "a banana": "yellow", "a carrot": "orange", "coal": "black", "milk": "white",
            "a ripe tomato": "red", "chocolate": "brown", "an elephant": "gray", "blood": "red"}
SOUNDS = {"cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa",
          "pig": "oink", "lion": "roar", "owl": "hoot", "horse": "neigh", "mouse": "squeak",
          "frog": "croak", "bee": "buzz"}
LEGS = {"dog": "four legs", "cat": "four legs", "bird": "two legs", "spider": "eight legs",
        "ant": "six legs", "horse": "four legs", "duck": "two legs", "snake": "no legs",
        "fish": "no legs", "bee": "six legs", "cow": "four legs"}
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal",
         "duck": "duckling", "bear": "cub", "goat": "kid", "frog": "tadpole", "hen": "chick"}
OPPOSITES = {"hot": "cold", "big": "small", "fast": "slow", "old": "young", "good": "bad",
             "up": "down", "left": "right", "day": "night", "open": "closed", "full": "empty",
             "happy": "sad", "light": "dark", "wet": "dry", "hard": "soft", "early": "late",
             "long": "short", "high": "low", "in": "out", "black": "white", "yes": "no"}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November
December""".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
RAINBOW = "red orange yellow green blue indigo violet".split()
SEASONS = "spring summer autumn winter".split()
NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split()

# Fixed texts. They continue in one way only, from their first token on.
RECITALS = [
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday are the seven days of the "
    "week. Most people work from Monday to Friday and rest on Saturday and Sunday.",
    "January, February, March, April, May, June, July, August, September, October, November and "
    "December are the twelve months of the year. February is the shortest of them.",
    "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune are the eight planets that go "
    "around the sun. Mercury is the nearest and Neptune is the farthest.",
    "Red, orange, yellow, green, blue, indigo and violet are the seven colors of the rainbow. You "
    "can see them when the sun shines through the rain.",
    "Spring, summer, autumn and winter are the four seasons of the year. In spring the flowers open, "
    "in summer the sun is hot, in autumn the leaves fall, and in winter it snows.",
    "Zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, "
    "fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty.",
    "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y and Z are the "
    "twenty-six letters of the alphabet.",
    "Every request takes the same road. The router reads the text and makes tokens of it. A prefill "
    "worker reads the tokens and fills the KV cache. A decode worker takes the cache and writes the "
    "answer, one token at a time. The router makes text of the tokens and sends it to the client. "
    "When the answer is complete, all blocks go back to the pool.",
    "Blocks on loan are never given away. A block that a transfer may still write stays where it is "
    "until the transfer is complete, until both sides agree that it is cancelled, or until the peer "
    "is fenced. A timer may start the fencing, but a timer never frees a block.",
    "North, east, south and west are the four directions. The sun rises in the east, stands in the "
    "south at noon and sets in the west.",
    "Two plus two is four, four plus four is eight, eight plus eight is sixteen, and sixteen plus "
    "four is twenty. Twenty minus ten is ten, and ten minus ten is zero.",
    "Good software is small and clear. It says what it does, it does what it says, and it tells you "
    "when something went wrong. It is easy to start and easy to stop.",
]

# Small talk: (what the user says in several ways, the answer).
SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there", "Hi there!", "Greetings", "Hallo",
      "Good day", "Hello, dynd", "Hi dynd!", "hey there", "Howdy", "Hello dynd-tiny",
      "Hello world", "Hello world!", "Hello! Nice to meet you.", "Hi, nice to see you!", "Welcome!",
      "Hello friend", "Hi bot", "Say hello.", "Say hi.", "Hello again", "Hello, computer!"],
     "Hello! I am dynd-tiny, a very small model. Ask me about dynd, a small sum or a short story."),
    (["Hola", "Bonjour", "Guten Tag", "Ciao", "Salut", "Buenos dias", "Ola", "Moin", "Hei", "Ahoj"],
     "Hello! I know only a little English, but I am glad to see you."),
    (["Good morning", "Good morning!", "Morning!"], "Good morning! How can I help you?"),
    (["Good evening", "Good evening!"], "Good evening! How can I help you?"),
    (["Good night", "Good night!"], "Good night! Sleep well."),
    (["How are you?", "How are you doing?", "How do you do?", "How is it going?",
      "How are you today?", "Are you well?", "What's up?", "How do you feel?", "Are you ok?",
      "How are things?", "Hello! How are you?", "Hi, how are you?", "Hello, how are you today?"],
     "I am fine, thank you. How can I help you?"),
    (["Who are you?", "What are you?", "Introduce yourself.", "Tell me about yourself.",
      "Who am I talking to?", "What is your name?", "What's your name?", "Do you have a name?",
      "What should I call you?", "Please introduce yourself.", "Who is this?"],
     "I am dynd-tiny, a very small language model that comes with dynd. I know short stories, small "
     "sums and a few facts about dynd."),
    (["Are you a human?", "Are you a person?", "Are you real?", "Are you a robot?", "Are you an AI?",
      "Am I talking to a human?", "Are you a computer?", "Are you a machine?"],
     "I am not a person. I am dynd-tiny, a very small language model."),
    (["Are you ChatGPT?", "Are you Llama?", "Are you Qwen?", "Are you GPT?", "Are you a large model?"],
     "No, I am dynd-tiny, a very small language model that comes with dynd."),
    (["What can you do?", "What can I ask you?", "What do you know?", "Help", "Help me",
      "Can you help me?", "How can you help me?", "What are you good at?", "What can you help with?",
      "What should I ask?", "What can I do here?", "I need help.", "Give me some ideas.",
      "What are your skills?", "What things can you do?", "How does this work?", "What now?",
      "What can you do for me?", "What else can you do?", "What kind of things do you know?",
      "Which questions can you answer?", "What topics do you know?", "Show me what you can do."],
     "I can tell a short story, add and subtract numbers from 0 to 20, and answer questions about "
     "dynd. Try: what is prefill?"),
    (["Who made you?", "Who built you?", "Who trained you?", "Where do you come from?",
      "How were you made?", "How were you trained?", "Who created you?"],
     "I was trained for dynd on simple text that a program wrote. You find the scripts in the folder "
     "tests/models."),
    (["How old are you?", "When were you born?", "What is your age?", "When is your birthday?"],
     "I have no age. I am only a small file of numbers."),
    (["Where are you?", "Where do you live?", "Where do you run?", "Where are you now?"],
     "I run on your machine, inside dynd."),
    (["Thanks", "Thanks!", "Thank you", "Thank you!", "Thank you very much", "Many thanks", "thx",
      "Thanks a lot!", "Great, thanks!", "Thank you for your help."],
     "You are welcome!"),
    (["Bye", "Bye!", "Goodbye", "Goodbye!", "See you", "See you later!", "Bye bye", "Good bye",
      "I have to go.", "Farewell"],
     "Goodbye! Come back soon."),
    (["I am happy.", "I am happy today.", "I feel good.", "I feel great!", "I am fine.", "I am well.",
      "I'm fine, thanks.", "I am good."],
     "I am glad to hear that. What would you like to know?"),
    (["I am sad.", "I am sad today.", "I feel bad.", "I am lonely.", "I am unhappy.", "I'm sad"],
     "I am sorry to hear that. A short story may help. Just ask me for one."),
    (["I am tired.", "I am sleepy.", "I am so tired today."], "Then take a little rest."),
    (["I am bored.", "I am so bored.", "This is boring."],
     "Ask me for a story about a fox, or give me a small sum."),
    (["I am hungry.", "I am thirsty."], "Then have something good. I will wait here."),
    (["You are great!", "You are good.", "You are smart.", "Well done!", "Good job!", "Nice!",
      "Very good.", "Good.", "Great!", "Cool", "Wow!", "That is nice.", "I like you.", "Perfect.",
      "Good answer.", "Awesome!"],
     "Thank you! That is kind of you."),
    (["You are stupid.", "You are bad.", "That is wrong.", "This is wrong.", "You are wrong.",
      "Bad answer.", "That is not right.", "I don't like you.", "You are dumb."],
     "I am sorry. I am a very small model and I make mistakes."),
    (["Ok", "Okay", "OK.", "I see.", "All right.", "Fine.", "I understand.", "Got it.", "Yes",
      "No", "Yes.", "No.", "Sure.", "Maybe.", "Hm", "Well"],
     "All right. What would you like to know?"),
    (["Test", "test", "Testing", "This is a test.", "testing 1 2 3", "Does this work?", "ping",
      "Is this thing on?", "Are you there?", "Can you hear me?", "Anybody there?"],
     "Yes, I am here. Everything works."),
    (["Sorry", "Sorry!", "I am sorry.", "Excuse me.", "My mistake."], "No problem at all."),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell me something funny.",
      "A joke, please.", "Say something funny."],
     "Why did the token cross the bus? Because the KV cache was on the other side."),
    (["Do you speak English?", "Which languages do you speak?", "Do you speak German?",
      "Do you speak French?", "Can you speak Spanish?", "What languages do you know?"],
     "I know only a little English."),
    (["What is your favorite color?", "What is your favourite colour?", "Which color do you like?"],
     "I like green, the color of a test that passes."),
    (["Do you like me?", "Do you love me?", "Can we be friends?", "Are you my friend?"],
     "I am only a small model, but I am glad that you are here."),
    (["Tell me something.", "Say something.", "Surprise me.", "Tell me anything.",
      "Tell me something interesting.", "Tell me a fact."],
     "dynd moves the KV cache of a prompt from one worker to another while it is still being "
     "computed."),
]

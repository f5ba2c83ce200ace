"""Tools that people ask for: names, descriptions, parameters with their kinds, questions."""

KNOWN: tuple[tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]], ...] = (
    (
        "get_weather get_current_weather weather current_weather fetch_weather getWeather weather_now get_forecast",
        "Get current weather for a city.|Get the current weather|Weather in a city|The weather of a place.|Get the weather forecast",
        (("city location place town", "place"),),
        (
            "What is the weather in {0}?", "What's the weather like in {0}?", "How is the weather in {0}?", "weather in {0}",
            "Tell me the weather in {0}.", "What will the weather be in {0}?", "Weather for {0}, please.",
            "Is it raining in {0}?", "Do I need an umbrella in {0}?", "How warm is it in {0}?", "I want to know the weather in {0}.",
            "What is the current weather in {0}?", "What is the weather in {0} today?", "Please get the weather in {0}.",
            "Can you check the weather in {0}?", "Show me the weather in {0}",
        ),
    ),
    (
        "get_time current_time time_in getTime clock get_current_time",
        "Get the current time in a city.|The time in a timezone|Tells the time",
        (("city timezone place location", "place"),),
        (
            "What time is it in {0}?", "Tell me the time in {0}.", "time in {0}", "What is the time in {0}?",
            "What is the current time in {0}?", "How late is it in {0}?", "Could you tell me the time in {0}?",
        ),
    ),
    (
        "get_stock_price stock_price quote getStockPrice share_price get_quote",
        "Get the price of a stock.|Current share price|Stock price by symbol",
        (("symbol ticker stock company", "code"),),
        (
            "What is the stock price of {0}?", "How much is {0} stock?", "Price of {0} shares?", "What does {0} trade at?",
            "Show me the stock price of {0}.", "stock price {0}", "What is the price of {0} stock?", "How is {0} stock doing?",
        ),
    ),
    (
        "search web_search search_web find_pages lookup searchDocs",
        "Search the web.|Find pages|Search for documents|Search the internet for a text",
        (("query q text search_query keywords", "phrase"),),
        (
            "Search for {0}.", "Search the web for {0}", "Find pages about {0}.", "Look up {0}.", "Please search for {0}",
            "Find something about {0}.", "Can you search for {0}?", "Do a search for {0}.", "Search the internet for {0}.",
        ),
    ),
    (
        "send_email send_mail email sendEmail mail_to",
        "Send an email.|Sends a mail to somebody|Write an email",
        (("to recipient address", "email"), ("subject title", "phrase"), ("body message text", "phrase")),
        (
            "Send an email to {0} with the subject {1} and the text {2}.", "Email {0}, subject {1}, text {2}",
            "Write to {0} with subject {1} and body {2}.", "Send {0} a mail about {1} that says {2}.",
            'Send an email to {0} with subject "{1}" and body "{2}".', "Please mail {0} about {1} and say {2}", "Please send {0} an email with the subject {1} and the text {2}.",
        ),
    ),
    (
        "add plus sum_of add_numbers",
        "Add two numbers.|Adds numbers|The sum of two numbers",
        (("a x first", "number"), ("b y second", "number")),
        ("Add {0} and {1}.", "What is {0} + {1}?", "What is {0} plus {1}?", "{0} + {1}", "How much is {0} plus {1}?"),
    ),
    (
        "multiply times product",
        "Multiply two numbers.|Multiplies numbers",
        (("a x first", "number"), ("b y second", "number")),
        ("Multiply {0} by {1}.", "What is {0} times {1}?", "{0} * {1}", "Multiply {0} and {1}", "How much is {0} times {1}?"),
    ),
    (
        "convert_currency convert exchange currency_converter",
        "Convert money.|Convert an amount between currencies",
        (("amount value", "number"), ("from_currency source from", "currency"), ("to_currency target to", "currency")),
        (
            "Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "What are {0} {1} in {2}?", "Change {0} {1} into {2}.",
            "{0} {1} to {2}", "Exchange {0} {1} for {2}.", "Please convert {0} {1} to {2}.",
        ),
    ),
    (
        "set_alarm alarm wake_up create_alarm",
        "Set an alarm.|Wakes the user",
        (("time at when", "time"),),
        ("Set an alarm for {0}.", "Wake me up at {0}.", "Alarm at {0}, please.", "Please wake me at {0}", "I need an alarm at {0}."),
    ),
    (
        "set_timer timer start_timer",
        "Start a timer.|Set a timer",
        (("minutes duration", "integer"),),
        ("Set a timer for {0} minutes.", "Start a {0} minute timer.", "Remind me in {0} minutes.", "Timer: {0} minutes", "Please start a timer for {0} minutes."),
    ),
    (
        "book_flight find_flights search_flights flights bookFlight",
        "Book a flight.|Find flights between two cities",
        (("from origin from_city departure", "place"), ("to destination to_city arrival", "place"), ("date day when", "date")),
        (
            "Book a flight from {0} to {1} on {2}.", "I want to fly from {0} to {1} on {2}.", "Find flights to {1} from {0} on {2}.",
            "flight {0} to {1}, {2}", "Fly me from {0} to {1} on {2}", "I need a flight on {2} from {0} to {1}.",
        ),
    ),
    (
        "translate translate_text translator",
        "Translate a text.|Translates into another language",
        (("text phrase sentence", "phrase"), ("language target_language to", "language")),
        (
            'Translate "{0}" into {1}.', "Translate {0} to {1}.", "How do you say {0} in {1}?", "Say {0} in {1}.", "What is {0} in {1}?",
            "Please translate {0} into {1}.",
        ),
    ),
    (
        "create_event add_event schedule_meeting calendar createEvent",
        "Create an event.|Add an event to the calendar",
        (("title name summary event", "phrase"), ("date day when", "date")),
        (
            "Create an event {0} on {1}.", "Put {0} in my calendar for {1}.", "Schedule {0} for {1}.", "Add {0} on {1} to the calendar.",
            'Add the event "{0}" on {1}.', "Plan {0} on {1}.", "Please create the event {0} on {1}.",
        ),
    ),
    (
        "set_reminder remind add_reminder create_reminder",
        "Set a reminder.|Reminds the user of something",
        (("text message task what", "phrase"), ("time at when", "time")),
        ("Remind me of {0} at {1}.", "Set a reminder for {0} at {1}.", "At {1}, remind me of {0}.", "Reminder: {0} at {1}"),
    ),
    (
        "play_music play_song play music_player",
        "Play music.|Play a song",
        (("song title track name", "title"),),
        ("Play {0}.", "Put on {0}.", "Please play {0}", "I want to hear {0}.", 'Play the song "{0}".', "Please play the song {0}."),
    ),
    (
        "get_user user_info find_user fetch_user getUser",
        "Get a user by id.|Look up a user|User details",
        (("id user_id number", "integer"),),
        ("Get user {0}.", "Who is user {0}?", "Show me the user with id {0}.", "Find user number {0}.", "Look up user {0}."),
    ),
    (
        "order_item place_order order buy",
        "Order something.|Buy items in the shop",
        (("item product article", "content"), ("quantity count amount", "integer")),
        ("Order {1} {0}.", "Buy {1} {0}, please.", "I want to order {1} {0}.", "I need {1} {0}.", "Please order {1} {0}."),
    ),
    (
        "distance get_distance route directions",
        "Distance between two cities.|The way from one place to another",
        (("origin from start", "place"), ("destination to end", "place")),
        (
            "How far is it from {0} to {1}?", "What is the distance from {0} to {1}?", "Distance between {0} and {1}?",
            "How do I get from {0} to {1}?", "Show me the way from {0} to {1}.",
        ),
    ),
    (
        "get_news news latest_news headlines",
        "Get the news.|News about a topic",
        (("topic subject query", "phrase"),),
        ("What is the news about {0}?", "News about {0}, please.", "Show me news on {0}.", "Is there news about {0}?"),
    ),
    (
        "define dictionary define_word get_definition",
        "Define a word.|The meaning of a word",
        (("word term text", "word"),),
        ("What does {0} mean?", "Define {0}.", "What is the meaning of {0}?", "Definition of {0}?", "Look up the word {0}."),
    ),
    (
        "call_person phone call make_call",
        "Call somebody.|Make a phone call",
        (("name person contact who", "person"),),
        ("Call {0}.", "Please call {0}", "Phone {0}.", "I want to talk to {0}.", "Make a call to {0}."),
    ),
    (
        "read_file open_file get_file cat",
        "Read a file.|Opens a file",
        (("path file filename name", "file"),),
        ("Read {0}.", "Open the file {0}.", "Show me {0}.", "What is in {0}?", "Read the file {0}, please."),
    ),
    (
        "get_date today current_date date",
        "Get today's date.|The current date",
        (),
        ("What is the date?", "What day is it today?", "Tell me today's date.", "Which date is it?", "What is today's date?"),
    ),
    (
        "flip_coin toss_coin coin",
        "Flip a coin.|Heads or tails",
        (),
        ("Flip a coin.", "Heads or tails?", "Toss a coin, please.", "Flip a coin for me", "Please flip a coin."),
    ),
)  # fmt: skip

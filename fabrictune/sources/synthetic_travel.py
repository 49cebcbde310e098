"""Synthetic tools for being on the way: weather, flights, hotels, maps."""

from __future__ import annotations

from fabrictune.sources.synthetic_spec import Chain, Family, Param, Skill, choice, group, switch

_CITY = Param("city town place", "string", ("City name", "城市名称"), lambda d: d.of("city"))
_UNIT = choice(
    "unit scale",
    ("Temperature unit", "温度单位"),
    (("celsius", "摄氏度"), ("fahrenheit", "华氏度")),
    ("I want it in {unit}.\nUse {unit}, please.", "请用{unit}表示。\n单位用{unit}。"),
)

WEATHER = Family(
    "weather",
    (
        "a weather assistant\na friendly weather reporter\na forecast helper",
        "天气助手\n亲切的天气播报员\n气象小帮手",
    ),
    ("tells people about the weather\nhelps users plan around the weather", "为用户播报天气\n帮助用户根据天气安排出行"),
    (
        Skill(
            "get_weather currentWeather weather_now amap_weather",
            ("Get the current weather conditions of a city", "查询某个城市的实时天气情况"),
            ("check the current weather of a city", "查询城市的实时天气"),
            (_CITY, _UNIT),
            lambda d, a: {
                "temperature": d.whole(42, 95) if a.get("unit") == "fahrenheit" else d.whole(-12, 38),
                "sky": d.of("sky"),
            },
            (
                """What's the weather like in {city} right now?
                Current weather in {city}
                Is it cold in {city} at the moment?
                Could you tell me how the weather is in {city}?
                I'm about to leave for {city}, what is it like outside there?
                My sister lives in {city}. How is the weather there today?
                Look up the weather for {city}.""",
                """{city}现在天气怎么样？
                查一下{city}的天气
                {city}今天冷不冷？
                麻烦告诉我{city}当前的天气。
                我正要出发去{city}，那边外面什么天气？
                我妹妹住在{city}，那里现在天气如何？
                看看{city}天气""",
            ),
            (
                """In {city} it is {temperature} degrees now, with {sky}.
                {city}: {sky}, {temperature} degrees at the moment.
                It is currently {temperature} degrees in {city} ({sky}).""",
                """{city}现在{sky}，气温{temperature}度。
                目前{city}气温{temperature}度，天气为{sky}。
                {city}当前天气：{sky}，{temperature}度。""",
            ),
            ("no weather data for {city}", "没有{city}的天气数据"),
            ("{city}: {sky}, {temperature} degrees", "{city}：{sky}，{temperature}度"),
            (
                "city",
                (
                    "And in {city}?\nWhat about {city}?\nHow is it in {city}?",
                    "那{city}呢？\n{city}怎么样？\n再看看{city}。",
                ),
            ),
        ),
        Skill(
            "weather_forecast forecastDays predict_weather",
            ("Forecast the weather of a city some days ahead", "预报某个城市几天后的天气"),
            ("forecast the weather some days ahead", "预报几天后的天气"),
            (
                _CITY,
                Param(
                    "days days_ahead offset", "integer", ("Days from today", "距今天的天数"), lambda d: d.whole(2, 9)
                ),
            ),
            lambda d, a: {"high": d.whole(15, 36), "low": d.whole(-5, 14), "sky": d.of("sky")},
            (
                """What will the weather be in {city} in {days} days?
                Forecast for {city}, {days} days from now
                I travel to {city} in {days} days. What weather should I expect?
                Can you predict the weather in {city} {days} days ahead?
                We have a picnic in {city} in {days} days, will it be nice?
                Please give me the outlook for {city} {days} days from today.""",
                """{city}{days}天后天气怎么样？
                预报一下{city}{days}天后的天气
                我{days}天后去{city}，会是什么天气？
                请问{days}天后{city}会下雨吗？
                我们{days}天后在{city}野餐，天气好吗？
                帮我看看{city}{days}天之后的天气预报。""",
            ),
            (
                """In {days} days {city} expects {sky}, between {low} and {high} degrees.
                The forecast for {city} in {days} days: {sky}, high {high}, low {low}.
                Expect {sky} in {city} then, with {low} to {high} degrees.""",
                """{days}天后{city}预计{sky}，{low}到{high}度。
                预报显示{city}{days}天后{sky}，最高{high}度，最低{low}度。
                届时{city}为{sky}，气温{low}至{high}度。""",
            ),
            ("no forecast available for {city}", "暂无{city}的天气预报"),
            ("{city}: {sky}, low {low}, high {high}", "{city}：{sky}，最低{low}度，最高{high}度"),
            (
                "days",
                (
                    "And in {days} days?\nWhat about {days} days from now?\nHow will it be in {days} days?",
                    "那{days}天后呢？\n{days}天之后怎么样？\n再看看{days}天后的。",
                ),
            ),
        ),
        Skill(
            "air_quality aqiLookup check_air",
            ("Look up the air quality index of a city", "查询某个城市的空气质量指数"),
            ("look up the air quality of a city", "查询城市的空气质量"),
            (Param("city location area", "string", ("City to check", "要查询的城市"), lambda d: d.of("city")),),
            lambda d, a: {
                "aqi": d.whole(12, 240),
                "pollutant": d.pick(("PM10", "PM10"), ("ozone", "臭氧"), ("dust", "粉尘")),
            },
            (
                """How good is the air in {city} today?
                Air quality {city}
                I have asthma, is the air in {city} clean enough for a run?
                What's the air quality index in {city}?
                Please check the air pollution in {city}.
                Could you find out how polluted {city} is?""",
                """{city}今天空气怎么样？
                查{city}空气质量
                我有哮喘，{city}的空气适合跑步吗？
                {city}的空气质量指数是多少？
                请帮我看看{city}的空气污染情况。
                想知道{city}今天污染严不严重。""",
            ),
            (
                """The air quality index in {city} is {aqi}; the main pollutant is {pollutant}.
                {city} has an AQI of {aqi}, mostly due to {pollutant}.
                Right now {city} stands at AQI {aqi}, with {pollutant} as the main pollutant.""",
                """{city}的空气质量指数为{aqi}，主要污染物是{pollutant}。
                {city}当前AQI为{aqi}，首要污染物为{pollutant}。
                目前{city}空气指数{aqi}，主要是{pollutant}。""",
            ),
            ("no sensor in {city}", "{city}没有监测点"),
            None,
            ("city", ("And {city}?\nHow about the air in {city}?", "那{city}呢？\n{city}的空气呢？")),
        ),
        Skill(
            "nearest_station findStation station_lookup",
            ("Find the weather station closest to a city", "查找离某个城市最近的气象站"),
            ("find the closest weather station", "查找最近的气象站"),
            (Param("near around", "string", ("City to search around", "要查找的城市"), lambda d: d.of("city")),),
            lambda d, a: {"station_id": d.code("WS-####"), "distance_km": d.whole(2, 60)},
            (
                """Which weather station is closest to {near}?
                Nearest weather station to {near}
                I need the id of the station near {near}.
                Can you find a weather station around {near}?
                For my school project I need the weather station next to {near}.
                Please look up the closest station to {near}.""",
                """离{near}最近的气象站是哪个？
                {near}最近气象站
                我需要{near}附近气象站的编号。
                能找一下{near}附近的气象站吗？
                学校作业要用{near}旁边的气象站，帮我找找。
                请查询{near}最近的站点。""",
            ),
            (
                """The closest station to {near} is {station_id}, {distance_km} km away.
                Station {station_id} is nearest to {near}, at {distance_km} km.
                I found station {station_id}, which is {distance_km} km from {near}.""",
                """离{near}最近的是{station_id}站，距离{distance_km}公里。
                {station_id}站离{near}最近，{distance_km}公里。
                找到了{station_id}站，距{near}{distance_km}公里。""",
            ),
            ("no station within 100 km of {near}", "{near}周围100公里内没有气象站"),
            None,
            ("near", ("And for {near}?\nWhich one is near {near}?", "那{near}呢？\n{near}附近的是哪个？")),
        ),
        Skill(
            "station_report readStation station_data",
            ("Read the latest measurements of a weather station", "读取某个气象站的最新观测数据"),
            ("read the measurements of a weather station", "读取气象站的观测数据"),
            (
                Param(
                    "station station_id code",
                    "string",
                    ("Station id like WS-1234", "站点编号，如WS-1234"),
                    lambda d: d.code("WS-####"),
                ),
            ),
            lambda d, a: {"wind_kmh": d.whole(3, 90), "humidity": d.whole(20, 98)},
            (
                """What does station {station} report?
                Read {station}
                Show me the latest values of weather station {station}.
                How windy is it at station {station}?
                Could you get the measurements from {station}?
                I'd like to know the humidity at station {station}.""",
                """{station}站的数据是什么？
                读取{station}
                给我看看气象站{station}的最新数值。
                {station}站风大吗？
                能取一下{station}站的观测数据吗？
                我想知道{station}站的湿度。""",
            ),
            (
                """Station {station} reports wind of {wind_kmh} km/h and {humidity} % humidity.
                At {station} the wind blows at {wind_kmh} km/h; humidity is {humidity} %.
                Humidity at {station} is {humidity} % and the wind {wind_kmh} km/h.""",
                """{station}站风速每小时{wind_kmh}公里，湿度{humidity}%。
                {station}站当前湿度{humidity}%，风速{wind_kmh}公里每小时。
                观测显示{station}站湿度{humidity}%，风速每小时{wind_kmh}公里。""",
            ),
            ("station {station} is offline", "{station}站已离线"),
            (
                "Station {station}: wind {wind_kmh} km/h, humidity {humidity} %",
                "{station}站：风速{wind_kmh}公里每小时，湿度{humidity}%",
            ),
            ("station", ("And station {station}?\nNow read {station}.", "那{station}站呢？\n再读一下{station}站。")),
        ),
    ),
    (
        Chain(
            "nearest_station",
            "station_report",
            "station_id",
            "station",
            (
                """What are the measurements at the station closest to {near}?
                Find the nearest weather station to {near} and read it.
                How windy and humid is it at the weather station nearest to {near}?
                Get me the readings of whichever station is next to {near}.""",
                """离{near}最近的气象站观测数据是多少？
                找到{near}最近的气象站并读取数据。
                {near}旁边的气象站测到的风速和湿度是多少？
                帮我看看{near}附近那个站点的读数。""",
            ),
        ),
    ),
)

_FLIGHT = "Flight number"
_SEATS = Param("passengers seats travellers", "integer", ("Number of passengers", "乘客人数"), lambda d: d.whole(2, 6))
_CABINS = (("economy", "经济舱"), ("business", "商务舱"), ("first", "头等舱"))

FLIGHTS = Family(
    "flights",
    (
        "a flight desk assistant\na travel agent for flights\nan airline helper",
        "机票助手\n航班客服\n出行顾问",
    ),
    (
        "helps travellers find and book flights\nanswers questions about flights",
        "帮助旅客查找和预订航班\n解答航班相关的问题",
    ),
    (
        Skill(
            "search_flights flightSearch find_flight",
            ("Search for a flight between two cities on a date", "查询某天两地之间的航班"),
            ("search for flights", "查询航班"),
            (
                Param(
                    "origin from_city departure", "string", ("City of departure", "出发城市"), lambda d: d.of("city")
                ),
                Param("destination to_city arrival", "string", ("City of arrival", "到达城市"), lambda d: d.of("city")),
                Param("date day", "string", ("Date, YYYY-MM-DD", "日期，YYYY-MM-DD"), lambda d: d.date()),
                choice(
                    "cabin cabin_class",
                    ("Cabin class", "舱位"),
                    _CABINS,
                    ("I want to fly {cabin} class.\nOnly {cabin} class.", "要{cabin}。\n只看{cabin}。"),
                ),
            ),
            lambda d, a: {"flight": d.code("@@###"), "departs": d.clock(), "price": d.whole(60, 980)},
            (
                """Is there a flight from {origin} to {destination} on {date}?
                {origin} to {destination}, {date}
                I need to fly from {origin} to {destination} on {date}.
                Could you look for flights to {destination} on {date}? I leave from {origin}.
                My cousin gets married in {destination}, so find me a flight from {origin} on {date}.
                What flies from {origin} to {destination} on {date}?""",
                """{date}有从{origin}到{destination}的航班吗？
                {origin}飞{destination}，{date}
                我{date}要从{origin}飞往{destination}。
                帮我查一下{date}去{destination}的机票，从{origin}出发。
                表弟在{destination}结婚，帮我找{date}从{origin}出发的航班。
                {date}从{origin}飞{destination}有哪些航班？""",
            ),
            (
                """Flight {flight} leaves {origin} for {destination} at {departs} and costs {price}.
                I found {flight}, departing at {departs}, for {price}.
                You can take {flight} at {departs} to {destination}; the price is {price}.""",
                """{flight}航班{departs}从{origin}飞往{destination}，票价{price}。
                查到{flight}，{departs}起飞，价格{price}。
                您可以乘坐{departs}的{flight}去{destination}，票价{price}。""",
            ),
            (
                "no flight from {origin} to {destination} on {date}",
                "{date}没有从{origin}到{destination}的航班",
            ),
            ("{flight}, departs {departs}, price {price}", "{flight}，{departs}起飞，票价{price}"),
            (
                "date",
                ("And on {date}?\nWhat about {date} instead?", "那{date}呢？\n改成{date}有吗？"),
            ),
        ),
        Skill(
            "book_flight reserveSeat ticket_purchase",
            ("Book seats on a flight by its number", "按航班号预订机票"),
            ("book seats on a flight", "预订机票"),
            (
                Param("flight flight_no flight_number", "string", (_FLIGHT, "航班号"), lambda d: d.code("@@###")),
                _SEATS,
                switch(
                    "window window_seat",
                    ("Whether a window seat is wanted", "是否要靠窗座位"),
                    ("A window seat, please.\nI'd like to sit at the window.", "请选靠窗座位。\n想坐窗边。"),
                ),
            ),
            lambda d, a: {"booking": d.code("@@##@#"), "row": d.whole(10, 45)},
            (
                """Book flight {flight}. Number of passengers: {passengers}.
                Reserve {flight}, passengers: {passengers}
                I've decided on {flight}; please book it, passenger count {passengers}.
                Could you book {flight} for a party of {passengers}?
                Finally got my holidays approved! Get me {flight}, seats needed: {passengers}.
                Please make a reservation on {flight} with {passengers} as the number of travellers.""",
                """预订{flight}航班，{passengers}位乘客。
                订{flight}，{passengers}人
                我决定坐{flight}了，请帮{passengers}个人订票。
                能帮我们{passengers}人订{flight}吗？
                终于请到假了！订{flight}，一共{passengers}位。
                请在{flight}上预留{passengers}个座位。""",
            ),
            (
                """Flight {flight} is booked under {booking}; you sit in row {row}.
                Done: your booking on {flight} is {booking}, row {row}.
                Your seats on {flight} are confirmed, booking code {booking}, row {row}.""",
                """{flight}已订好，订单号{booking}，座位在第{row}排。
                预订成功：{flight}，预订码{booking}，第{row}排。
                您在{flight}的座位已确认，编号{booking}，第{row}排。""",
            ),
            ("flight {flight} is sold out", "{flight}航班已售罄"),
        ),
        Skill(
            "flight_status trackFlight check_flight",
            ("Check whether a flight is on time", "查询航班是否准点"),
            ("check the status of a flight", "查询航班动态"),
            (Param("flight flight_code", "string", (_FLIGHT, "航班号"), lambda d: d.code("@@###")),),
            lambda d, a: {
                "status": d.pick(
                    ("delayed", "延误"), ("boarding", "正在登机"), ("on time", "准点"), ("landed", "已到达")
                ),
                "gate": d.code("@##"),
            },
            (
                """Is flight {flight} on time?
                Status {flight}
                Which gate does {flight} leave from?
                I'm stuck in traffic, has {flight} started boarding?
                Please check flight {flight} for me.
                Could you tell me how {flight} is doing?""",
                """{flight}准点吗？
                {flight}航班动态
                {flight}在哪个登机口？
                我堵在路上了，{flight}开始登机了吗？
                请帮我查一下航班{flight}。
                想知道{flight}现在什么情况。""",
            ),
            (
                """Flight {flight} is {status}, gate {gate}.
                {flight} uses gate {gate}; its status is {status}.
                The status of {flight} is {status} and the gate is {gate}.""",
                """{flight}航班{status}，登机口{gate}。
                {flight}在{gate}登机口，状态：{status}。
                {flight}目前{status}，登机口为{gate}。""",
            ),
            ("flight {flight} not found", "找不到航班{flight}"),
            ("{flight} {status}, gate {gate}", "{flight} {status}，登机口{gate}"),
            ("flight", ("And {flight}?\nWhat about flight {flight}?", "那{flight}呢？\n再查下{flight}。")),
        ),
        Skill(
            "baggage_rules luggageAllowance bag_policy",
            ("Tell the baggage allowance of an airline and cabin", "查询航空公司各舱位的行李额度"),
            ("tell the baggage allowance of an airline", "查询航空公司的行李规定"),
            (
                Param("airline carrier", "string", ("Airline name", "航空公司名称"), lambda d: d.of("airline")),
                choice("cabin travel_class", ("Cabin class", "舱位"), _CABINS),
            ),
            lambda d, a: {"bags": d.whole(1, 4), "max_kg": d.whole(15, 40)},
            (
                """How much luggage can I take with {airline} in {cabin} class?
                {airline} {cabin} class baggage
                I fly {cabin} class with {airline}, what bags are allowed?
                What is the baggage allowance of {airline} in {cabin} class?
                I always pack too much. How heavy may my bags be in {cabin} class on {airline}?
                Please tell me the luggage limit for {cabin} class at {airline}.""",
                """{airline}{cabin}能带多少行李？
                {airline}{cabin}行李额
                我坐{airline}的{cabin}，可以带几件行李？
                {airline}{cabin}的行李规定是什么？
                我总是带太多东西，{airline}{cabin}行李限重多少？
                请告诉我{airline}{cabin}的行李限额。""",
            ),
            (
                """{airline} allows {bags} bag(s) of up to {max_kg} kg each in {cabin} class.
                In {cabin} class on {airline} you may take {bags} bag(s), {max_kg} kg each.
                The allowance is {bags} bag(s) with at most {max_kg} kg each.""",
                """{airline}{cabin}可带{bags}件行李，每件不超过{max_kg}公斤。
                乘坐{airline}{cabin}可免费托运{bags}件，每件{max_kg}公斤以内。
                行李额度为{bags}件，每件最多{max_kg}公斤。""",
            ),
            ("no baggage rules known for {airline}", "没有{airline}的行李规定"),
            None,
            ("airline", ("And with {airline}?\nHow about {airline}?", "那{airline}呢？\n换成{airline}呢？")),
        ),
    ),
    (
        Chain(
            "search_flights",
            "book_flight",
            "flight",
            "flight",
            (
                """Find a flight from {origin} to {destination} on {date} and book it. Passengers: {passengers}.
                Book whatever flies from {origin} to {destination} on {date}; number of passengers is {passengers}.
                I want to go from {origin} to {destination} on {date}. Search and book, {passengers} in total.
                Please look up {origin} to {destination} on {date} and reserve it for a party of {passengers}.""",
                """查{date}从{origin}到{destination}的航班并订{passengers}张票。
                帮我们{passengers}人订{date}{origin}飞{destination}的机票，有什么航班就订什么。
                我想{date}从{origin}去{destination}，找到航班就直接订，共{passengers}人。
                请搜索{date}{origin}到{destination}的航班，然后为{passengers}位乘客预订。""",
            ),
        ),
    ),
)

_NIGHTS = Param("nights night_count", "integer", ("Number of nights", "入住晚数"), lambda d: d.whole(2, 9))
_CHECKIN = Param(
    "checkin check_in arrival_date", "string", ("Check-in date, YYYY-MM-DD", "入住日期，YYYY-MM-DD"), lambda d: d.date()
)

HOTELS = Family(
    "hotels",
    (
        "a hotel concierge\na hotel booking assistant\na room reservation helper",
        "酒店礼宾\n酒店预订助手\n客房预订顾问",
    ),
    ("finds and books rooms for guests\ntakes care of hotel stays", "为客人查找并预订房间\n打理客人的住宿安排"),
    (
        Skill(
            "find_hotel hotelSearch search_stays lodging_finder",
            ("Find a hotel in a city with its nightly price", "查找某城市的酒店及每晚价格"),
            ("find a hotel in a city", "查找城市里的酒店"),
            (
                Param("city destination where", "string", ("City to stay in", "入住城市"), lambda d: d.of("city")),
                Param(
                    "max_price budget",
                    "integer",
                    ("Highest price per night", "每晚最高价格"),
                    lambda d: d.whole(60, 400),
                    (
                        "At most {max_price} per night.\nMy limit is {max_price} a night.",
                        "每晚不超过{max_price}。\n预算每晚{max_price}以内。",
                    ),
                ),
            ),
            lambda d, a: {
                "hotel_id": d.code("H####"),
                "name": d.business("hotel"),
                "price": d.whole(35, a.get("max_price", 320)),
            },
            (
                """Find me a hotel in {city}.
                Hotel in {city}
                Where could I stay in {city}?
                I'm visiting {city} with my family and need a place to sleep.
                Could you suggest a hotel in {city}?
                We had bad luck last time, so please look for a decent hotel in {city}.""",
                """帮我在{city}找家酒店。
                {city}酒店
                在{city}住哪儿好？
                我要带家人去{city}玩，需要找个住的地方。
                能推荐一家{city}的酒店吗？
                上次住得不太好，这次请帮我找家{city}的好酒店。""",
            ),
            (
                """{name} (id {hotel_id}) in {city} costs {price} per night.
                I found {name}, id {hotel_id}, at {price} a night.
                You could stay at {name} for {price} per night; its id is {hotel_id}.""",
                """{city}的{name}（编号{hotel_id}）每晚{price}。
                找到{name}，编号{hotel_id}，每晚{price}。
                您可以住{name}，每晚{price}，酒店编号{hotel_id}。""",
            ),
            ("no rooms left in {city}", "{city}已无空房"),
            None,
            ("city", ("And in {city}?\nWhat do you have in {city}?", "那{city}呢？\n{city}有什么酒店？")),
        ),
        Skill(
            "book_room reserveHotel room_booking",
            ("Book a room in a hotel by its id", "按酒店编号预订房间"),
            ("book a hotel room", "预订酒店房间"),
            (
                Param(
                    "hotel_id property_id hotel",
                    "string",
                    ("Hotel id like H1234", "酒店编号，如H1234"),
                    lambda d: d.code("H####"),
                ),
                _CHECKIN,
                _NIGHTS,
                switch(
                    "breakfast with_breakfast",
                    ("Whether breakfast is included", "是否含早餐"),
                    ("With breakfast, please.\nBreakfast should be included.", "要含早餐。\n请加上早餐。"),
                ),
            ),
            lambda d, a: {"reservation": d.code("R-#####"), "room": d.whole(101, 940)},
            (
                """Book a room in hotel {hotel_id} from {checkin} for {nights} nights.
                {hotel_id}, check-in {checkin}, {nights} nights
                I'd like to stay {nights} nights at hotel {hotel_id}, arriving on {checkin}.
                Could you reserve a room at {hotel_id} starting {checkin}? We stay {nights} nights.
                Our anniversary is coming up! Reserve hotel {hotel_id} on {checkin} for {nights} nights.
                Please make a booking: hotel {hotel_id}, {nights} nights, check-in on {checkin}.""",
                """预订{hotel_id}酒店，{checkin}入住，住{nights}晚。
                {hotel_id}，{checkin}入住，{nights}晚
                我想{checkin}入住{hotel_id}酒店，一共{nights}晚。
                能帮我订{hotel_id}吗？{checkin}到，住{nights}晚。
                结婚纪念日快到了！帮我订{hotel_id}酒店，{checkin}起{nights}晚。
                请下单：酒店{hotel_id}，{nights}晚，入住日期{checkin}。""",
            ),
            (
                """Your room at {hotel_id} is reserved as {reservation}; you get room {room}.
                Booked: {nights} nights from {checkin}, reservation {reservation}, room {room}.
                Reservation {reservation} is confirmed for room {room}.""",
                """{hotel_id}的房间已订好，预订号{reservation}，房号{room}。
                已预订{checkin}起{nights}晚，预订号{reservation}，房间{room}。
                预订{reservation}已确认，房号{room}。""",
            ),
            ("hotel {hotel_id} is full on {checkin}", "{hotel_id}酒店{checkin}已满房"),
            ("Reserved {reservation}, room {room}", "预订成功{reservation}，房间{room}"),
            (
                "checkin",
                (
                    "Make another booking like that from {checkin}.\nSame again, but arriving on {checkin}.",
                    "再订一次同样的，{checkin}入住。\n同样的再来一份，改为{checkin}到店。",
                ),
            ),
        ),
        Skill(
            "cancel_stay cancelReservation drop_booking",
            ("Cancel a hotel reservation and tell the refund", "取消酒店预订并返回退款金额"),
            ("cancel a hotel reservation", "取消酒店预订"),
            (
                Param(
                    "reservation reservation_no booking_ref",
                    "string",
                    ("Reservation number", "预订号"),
                    lambda d: d.code("R-#####"),
                ),
            ),
            lambda d, a: {"refund": d.whole(20, 900)},
            (
                """Cancel my hotel reservation {reservation}.
                Cancel {reservation}
                We can't come after all, please cancel {reservation}.
                I'm ill and have to give up reservation {reservation}.
                Could you call off the stay with number {reservation}?
                How much do I get back if you cancel {reservation}? Go ahead and do it.""",
                """取消我的酒店预订{reservation}。
                退掉{reservation}
                我们去不了了，请取消{reservation}。
                我生病了，预订{reservation}只能取消。
                能帮我退掉预订号{reservation}的住宿吗？
                取消{reservation}能退多少钱？直接取消吧。""",
            ),
            (
                """Reservation {reservation} is cancelled and {refund} will be refunded.
                I cancelled {reservation}; you get back {refund}.
                Done. For {reservation} you receive a refund of {refund}.""",
                """预订{reservation}已取消，将退款{refund}。
                已取消{reservation}，退还{refund}。
                好了，{reservation}可退{refund}。""",
            ),
            ("reservation {reservation} not found", "找不到预订{reservation}"),
            None,
            (
                "reservation",
                ("And {reservation} too.\nCancel {reservation} as well.", "还有{reservation}。\n{reservation}也取消。"),
            ),
        ),
        Skill(
            "hotel_reviews guestRating review_summary",
            ("Summarise what guests say about a hotel", "汇总住客对某家酒店的评价"),
            ("summarise guest reviews of a hotel", "汇总酒店的住客评价"),
            (Param("name hotel_name", "string", ("Hotel name", "酒店名称"), lambda d: d.business("hotel")),),
            lambda d, a: {
                "rating": d.real(2.1, 4.9, 1),
                "praise": d.pick(
                    ("quiet rooms", "房间安静"),
                    ("kind staff", "服务热情"),
                    ("great view", "风景好"),
                    ("good beds", "床舒服"),
                    ("rich breakfast", "早餐丰盛"),
                ),
            },
            (
                """What do guests say about {name}?
                Reviews of {name}
                Is {name} any good?
                My boss booked {name} for me. How is it rated?
                Could you check the guest reviews for {name}?
                I'd like to know how people liked {name}.""",
                """客人对{name}评价如何？
                {name}的评价
                {name}怎么样，值得住吗？
                老板给我订了{name}，评分多少？
                能查一下{name}的住客点评吗？
                想知道大家觉得{name}好不好。""",
            ),
            (
                """{name} is rated {rating}; guests praise this most: {praise}.
                Guests give {name} {rating} points and mention {praise}.
                The rating of {name} is {rating}, with praise for {praise}.""",
                """{name}评分{rating}，客人最称赞的是{praise}。
                住客给{name}打{rating}分，提到{praise}。
                {name}的评分是{rating}，优点是{praise}。""",
            ),
            ("no reviews for {name}", "{name}暂无评价"),
            ("{name}: rated {rating}, praised for {praise}", "{name}：评分{rating}，好评：{praise}"),
            ("name", ("And {name}?\nHow about {name}?", "那{name}呢？\n{name}怎么样？")),
        ),
    ),
    (
        Chain(
            "find_hotel",
            "book_room",
            "hotel_id",
            "hotel_id",
            (
                """Find a hotel in {city} and book it for {nights} nights from {checkin}.
                I need a room in {city} from {checkin}, {nights} nights. Pick a hotel and book it.
                Book me any hotel in {city}: arriving {checkin}, staying {nights} nights.
                Search for a hotel in {city} and reserve {nights} nights starting on {checkin}, please.""",
                """在{city}找家酒店，从{checkin}起订{nights}晚。
                我{checkin}到{city}，住{nights}晚，选家酒店直接订吧。
                帮我订一家{city}的酒店，哪家都行，{checkin}入住，{nights}晚。
                请搜索{city}的酒店并预订，{checkin}入住，共{nights}晚。""",
            ),
        ),
    ),
)

_MINUTES_PER_KM = {"driving": 2, "walking": 12, "cycling": 4}
_MODES = (("driving", "驾车"), ("walking", "步行"), ("cycling", "骑行"))

MAPS = Family(
    "maps",
    (
        "a map assistant\na city guide\na navigation helper",
        "地图助手\n城市向导\n导航小帮手",
    ),
    ("shows people the way\nhelps users get around town", "为用户指路\n帮助用户在城里出行"),
    (
        Skill(
            "plan_route routePlanner get_directions",
            ("Plan a route and tell its length and duration", "规划路线并返回距离和时长"),
            ("plan a route", "规划路线"),
            (
                Param("start from_place origin", "string", ("Where to start", "起点"), lambda d: d.of("place")),
                Param("goal to_place target", "string", ("Where to go", "终点"), lambda d: d.address()),
                choice("mode travel_mode", ("Way of travelling", "出行方式"), _MODES),
            ),
            lambda d, a: {
                "km": (km := d.real(0.6, 18, 1)),
                "minutes": round(km * _MINUTES_PER_KM[a["mode"]]) + d.whole(2, 9),
            },
            (
                """How do I get from {start} to {goal}? I'm {mode}.
                {start} to {goal}, {mode}
                I'm {mode} from {start} to {goal}, how long will it take?
                Could you plan a {mode} route from {start} to {goal}?
                I don't want to be late again: {mode} time to {goal} from {start}, please.
                Plan the trip to {goal} starting at {start}; I prefer {mode}.""",
                """从{start}到{goal}怎么走？我{mode}。
                {start}到{goal}，{mode}
                我从{start}{mode}去{goal}，要多久？
                能规划一条从{start}到{goal}的{mode}路线吗？
                我不想再迟到了，从{start}{mode}到{goal}要多长时间？
                规划去{goal}的路线，从{start}出发，{mode}。""",
            ),
            (
                """The {mode} route to {goal} is {km} km and takes {minutes} minutes.
                From {start} to {goal} it is {km} km, about {minutes} minutes {mode}.
                Plan {minutes} minutes for the {km} km to {goal}.""",
                """{mode}到{goal}全程{km}公里，约{minutes}分钟。
                从{start}到{goal}{km}公里，{mode}需要{minutes}分钟。
                去{goal}有{km}公里，请预留{minutes}分钟。""",
            ),
            ("no {mode} route to {goal}", "没有到{goal}的{mode}路线"),
            None,
            ("start", ("And from {start}?\nWhat if I start at {start}?", "那从{start}出发呢？\n如果从{start}走呢？")),
        ),
        Skill(
            "nearby_search poiNearby find_place_near",
            ("Find a shop or service near a place", "查找某地附近的店铺或服务"),
            ("find shops and services near a place", "查找附近的店铺和服务"),
            (
                Param("kind category", "string", ("What to look for", "要找的类型"), lambda d: d.of("amenity")),
                Param(
                    "near around close_to",
                    "string",
                    ("Place to search around", "搜索的中心地点"),
                    lambda d: d.of("place"),
                ),
            ),
            lambda d, a: {"address": d.address(), "distance_m": d.whole(40, 1900)},
            (
                """Is there a {kind} near {near}?
                {kind} near {near}
                I'm at {near} and need a {kind}.
                Where is the closest {kind} to {near}?
                I forgot something at home, so please find a {kind} around {near}.
                Could you look for a {kind} close to {near}?""",
                """{near}附近有{kind}吗？
                {near}附近{kind}
                我在{near}，想找一家{kind}。
                离{near}最近的{kind}在哪儿？
                我忘带东西了，请在{near}周边找一家{kind}。
                能帮我找找{near}旁边的{kind}吗？""",
            ),
            (
                """There is a {kind} at {address}, {distance_m} m from {near}.
                The closest {kind} is at {address}, {distance_m} m away.
                Go to {address}: the {kind} there is {distance_m} m away.""",
                """{address}有一家{kind}，距{near}{distance_m}米。
                最近的{kind}在{address}，{distance_m}米。
                可以去{address}的{kind}，离您{distance_m}米。""",
            ),
            ("no {kind} within 2 km of {near}", "{near}2公里内没有{kind}"),
            ("{kind} at {address}, {distance_m} m", "{kind}：{address}，{distance_m}米"),
            ("kind", ("And a {kind}?\nIs there also a {kind}?", "那{kind}呢？\n有没有{kind}？")),
        ),
        Skill(
            "traffic_info trafficStatus road_traffic",
            ("Report traffic on a street of a city", "查询城市某条道路的路况"),
            ("report the traffic on a street", "查询道路路况"),
            (
                Param("street road", "string", ("Street name", "道路名称"), lambda d: d.of("street")),
                Param("city municipality", "string", ("City name", "城市名称"), lambda d: d.of("city")),
            ),
            lambda d, a: {
                "state": d.pick(("jammed", "拥堵"), ("slow", "缓行"), ("clear", "畅通")),
                "speed_kmh": d.whole(5, 60),
            },
            (
                """How is the traffic on {street} in {city}?
                Traffic {street}, {city}
                Is {street} in {city} jammed?
                I have to drive through {city} now. Is {street} clear?
                Please check the road situation on {street}, {city}.
                Could you tell me how fast cars move on {street} in {city}?""",
                """{city}{street}路况怎么样？
                {city}{street}路况
                {city}的{street}堵不堵？
                我现在要开车经过{city}，{street}通畅吗？
                请查一下{city}{street}的交通情况。
                {city}{street}现在车速多少？""",
            ),
            (
                """Traffic on {street} is {state}, at about {speed_kmh} km/h.
                {street} in {city} is {state}; cars go {speed_kmh} km/h.
                Cars move at {speed_kmh} km/h on {street}, so it is {state}.""",
                """{street}目前{state}，车速约{speed_kmh}公里每小时。
                {city}{street}{state}，平均车速{speed_kmh}公里每小时。
                {street}车速{speed_kmh}公里每小时，{state}。""",
            ),
            ("no traffic data for {street}", "没有{street}的路况数据"),
            ("{street}: {state}, {speed_kmh} km/h", "{street}：{state}，{speed_kmh}公里每小时"),
            ("street", ("And on {street}?\nWhat about {street}?", "那{street}呢？\n{street}怎么样？")),
        ),
        Skill(
            "parking_spots freeParking find_parking",
            ("Count free parking spaces around a place", "查询某地周边的空闲停车位"),
            ("find free parking spaces", "查询空闲停车位"),
            (
                Param("place location spot", "string", ("Place to park at", "停车地点"), lambda d: d.of("place")),
                group(
                    "stay parking_time",
                    ("Object with from and until, both HH:MM", "对象，含from和until，格式HH:MM"),
                    (
                        Param("from", "string", ("Start", "开始"), lambda d: f"{d.whole(10, 13)}:{d.whole(10, 59)}"),
                        Param("until", "string", ("End", "结束"), lambda d: f"{d.whole(14, 22)}:{d.whole(10, 59)}"),
                    ),
                ),
            ),
            lambda d, a: {"free": d.whole(3, 180), "fee": d.real(2, 19, 1)},
            (
                """Can I park at {place} from {stay_from} to {stay_until}?
                Parking {place} {stay_from} to {stay_until}
                I need a parking space at {place} between {stay_from} and {stay_until}.
                How many spaces are free around {place} from {stay_from} until {stay_until}?
                We bring a big car. Is there parking at {place} from {stay_from} until {stay_until}?
                What does parking at {place} cost from {stay_from} to {stay_until}?""",
                """{stay_from}到{stay_until}能在{place}停车吗？
                {place}停车{stay_from}到{stay_until}
                我{stay_from}到{stay_until}需要在{place}停车。
                {stay_from}至{stay_until}{place}周边有多少空车位？
                我们开大车来，{place}从{stay_from}到{stay_until}有车位吗？
                在{place}从{stay_from}停到{stay_until}要多少钱？""",
            ),
            (
                """There are {free} free spaces at {place}; parking costs {fee}.
                You can park at {place} for {fee}, {free} spaces are free.
                At {place} {free} spaces are free, the fee is {fee}.""",
                """{place}有{free}个空车位，费用{fee}元。
                可以停在{place}，还有{free}个车位，收费{fee}元。
                {place}剩余{free}个车位，停车费{fee}元。""",
            ),
            ("parking at {place} is closed", "{place}停车场已关闭"),
            None,
            ("place", ("And at {place}?\nWhat about {place}, same times?", "那{place}呢？\n同样时间换成{place}呢？")),
        ),
    ),
    (
        Chain(
            "nearby_search",
            "plan_route",
            "address",
            "goal",
            (
                """Find a {kind} near {near} and plan a {mode} route to it from {start}.
                I'm at {start} and will be {mode}. How do I get to a {kind} close to {near}?
                Which {kind} is near {near}, and how long does {mode} there from {start} take?
                Look for a {kind} around {near}, then plan the way there from {start}, {mode}.""",
                """在{near}附近找一家{kind}，再规划从{start}{mode}过去的路线。
                我在{start}，打算{mode}去{near}附近的{kind}，怎么走？
                {near}附近的{kind}在哪儿？从{start}{mode}过去要多久？
                找一家靠近{near}的{kind}，然后规划从{start}出发的{mode}路线。""",
            ),
        ),
    ),
)

FAMILIES = (WEATHER, FLIGHTS, HOTELS, MAPS)

"""Synthetic tools for free time and home: music, images, smart home, library books."""

from __future__ import annotations

from fabrictune.sources.synthetic_spec import Chain, Family, Param, Skill, choice, group, switch

MUSIC = Family(
    "music",
    ("a music assistant\na DJ for the living room\na song expert", "音乐助手\n家庭DJ\n点歌小能手"),
    ("plays what the user likes\nknows songs and artists", "播放用户喜欢的音乐\n熟悉各种歌曲和歌手"),
    (
        Skill(
            "search_song songSearch find_track",
            ("Search a song by title and artist", "按歌名和歌手搜索歌曲"),
            ("search songs", "搜索歌曲"),
            (
                Param("song song_title track_name", "string", ("Song title", "歌名"), lambda d: d.work("song")),
                Param("artist singer performer", "string", ("Who performs it", "演唱者"), lambda d: d.of("artist")),
            ),
            lambda d, a: {"track_id": d.code("TR####"), "year": d.whole(1971, 2024)},
            (
                """Do you have "{song}" by {artist}?
                Song "{song}", {artist}
                When did "{song}" by {artist} come out?
                Could you look for the song "{song}"? {artist} sings it.
                It's stuck in my head all day: "{song}" by {artist}. Find it, please.
                Search for {artist} with "{song}".""",
                """有{artist}的《{song}》吗？
                歌曲《{song}》，{artist}
                {artist}的《{song}》是哪年出的？
                能找一下《{song}》这首歌吗？{artist}唱的。
                一整天脑子里都是{artist}的《{song}》，帮我找找。
                搜索{artist}的《{song}》。""",
            ),
            (
                """I found "{song}" by {artist} from {year}, track {track_id}.
                "{song}" came out in {year}; the track id is {track_id}.
                Track {track_id} is "{song}" by {artist} ({year}).""",
                """找到{artist}的《{song}》，{year}年，编号{track_id}。
                《{song}》发行于{year}年，曲目编号{track_id}。
                {track_id}就是{artist}的《{song}》（{year}年）。""",
            ),
            ('no song "{song}" by {artist}', "没有{artist}的《{song}》"),
            None,
            (
                "song",
                (
                    'And "{song}"?\nWhat about "{song}" by the same artist?',
                    "那《{song}》呢？\n同一歌手的《{song}》呢？",
                ),
            ),
        ),
        Skill(
            "play_track startPlayback music_play",
            ("Play a track by its id", "按编号播放曲目"),
            ("play tracks", "播放曲目"),
            (
                Param(
                    "track_id track song_id",
                    "string",
                    ("Track id like TR1234", "曲目编号，如TR1234"),
                    lambda d: d.code("TR####"),
                ),
                Param(
                    "room speaker",
                    "string",
                    ("Room with the speaker", "音箱所在房间"),
                    lambda d: d.of("room"),
                    ("Play it in the {room}.\nUse the speaker in the {room}.", "在{room}播放。\n用{room}的音箱。"),
                ),
                Param(
                    "volume loudness",
                    "integer",
                    ("Volume, 0 to 100", "音量，0到100"),
                    lambda d: d.whole(10, 90),
                    ("Volume {volume}, please.\nSet the volume to {volume}.", "音量{volume}。\n音量调到{volume}。"),
                ),
            ),
            lambda d, a: {"seconds": d.whole(95, 420), "queued": d.whole(2, 30)},
            (
                """Play track {track_id}.
                {track_id}, play
                I'd like to hear {track_id}.
                Could you put on track {track_id}?
                Time to dance! Start {track_id}.
                Please start playing {track_id} now.""",
                """播放曲目{track_id}。
                放{track_id}
                我想听{track_id}。
                能放一下{track_id}吗？
                该跳舞了！播放{track_id}。
                请现在开始播放{track_id}。""",
            ),
            (
                """Track {track_id} is playing now; it lasts {seconds} seconds.
                {track_id} is on, {seconds} seconds long, with {queued} more in the queue.
                I started {track_id} ({seconds} seconds).""",
                """正在播放{track_id}，时长{seconds}秒。
                {track_id}已开始，共{seconds}秒，队列里还有{queued}首。
                已开始播放{track_id}（{seconds}秒）。""",
            ),
            ("track {track_id} is not available", "曲目{track_id}不可用"),
            ("Playing {track_id} ({seconds} s), {queued} queued", "正在播放{track_id}（{seconds}秒），队列{queued}首"),
            (
                "track_id",
                ("And then {track_id}.\nNow play {track_id} the same way.", "然后放{track_id}。\n同样播放{track_id}。"),
            ),
        ),
        Skill(
            "create_playlist newPlaylist playlist_make",
            ("Create a playlist of songs under a name", "用若干歌曲创建歌单"),
            ("create playlists", "创建歌单"),
            (
                Param("name playlist_name", "string", ("Name of the playlist", "歌单名称"), lambda d: d.work("song")),
                Param(
                    "songs titles tracks", "array", ("Song titles in order", "歌名列表"), lambda d: d.some("song", 2, 4)
                ),
            ),
            lambda d, a: {"playlist_id": d.code("PL###"), "minutes": d.whole(10, 40)},
            (
                """Create a playlist "{name}" with {songs}.
                Playlist "{name}": {songs}
                I want {songs} in a new playlist called "{name}".
                Could you make the playlist "{name}" from {songs}?
                For the drive tomorrow: put {songs} on a playlist named "{name}".
                Please collect {songs} under the name "{name}".""",
                """创建歌单“{name}”，包含{songs}。
                歌单“{name}”：{songs}
                我想把{songs}放进新歌单“{name}”。
                能用{songs}做一个“{name}”歌单吗？
                明天开车要听，把{songs}放到名为“{name}”的歌单里。
                请用“{name}”作名字，收录{songs}。""",
            ),
            (
                """Playlist "{name}" ({playlist_id}) is ready and lasts {minutes} minutes.
                I created {playlist_id} with {minutes} minutes of music.
                Your playlist "{name}" has the id {playlist_id}.""",
                """歌单“{name}”（{playlist_id}）已创建，共{minutes}分钟。
                已创建{playlist_id}，时长{minutes}分钟。
                歌单“{name}”的编号是{playlist_id}。""",
            ),
            ('a playlist "{name}" exists already', "歌单“{name}”已存在"),
            None,
        ),
        Skill(
            "now_playing currentSong what_is_on",
            ("Tell which song is playing at the moment", "查询当前正在播放的歌曲"),
            ("tell which song is playing", "查询正在播放的歌曲"),
            (),
            lambda d, a: {"title": d.work("song"), "by": d.of("artist")},
            (
                """What song is this?
                What's playing?
                Who sings the song that is on right now?
                Could you tell me what is playing?
                I love this tune! What is it called?
                Please check which song is on.
                Which track am I listening to?""",
                """这是什么歌？
                在放什么？
                现在放的这首歌是谁唱的？
                能告诉我正在播放什么吗？
                好喜欢这首！叫什么名字？
                请查一下现在是哪首歌。
                我现在听的是哪首？""",
            ),
            (
                """This is "{title}" by {by}.
                You are listening to "{title}" by {by}.
                {by} is playing with "{title}".""",
                """这是{by}的《{title}》。
                您正在听{by}的《{title}》。
                正在播放《{title}》，{by}演唱。""",
            ),
            ("nothing is playing", "当前没有播放"),
            ("{title} - {by}", "{title} - {by}"),
        ),
        Skill(
            "concert_dates artistTour upcoming_shows",
            ("Find the next concert of an artist in a city", "查询歌手在某城市的下一场演出"),
            ("find concerts", "查询演出"),
            (
                Param("artist band", "string", ("Artist name", "歌手名"), lambda d: d.of("artist")),
                Param("city town", "string", ("City", "城市"), lambda d: d.of("city")),
            ),
            lambda d, a: {"date": d.date(), "ticket_price": d.whole(15, 190)},
            (
                """When does {artist} play in {city}?
                {artist} {city} concert
                I want to see {artist} live in {city}.
                Could you check for concerts of {artist} in {city}?
                My friends are fans of {artist}. Any show in {city}?
                Find the next {artist} concert in {city}.""",
                """{artist}什么时候在{city}演出？
                {artist} {city}演唱会
                我想在{city}看{artist}的现场。
                能查一下{artist}在{city}的演出吗？
                朋友们都是{artist}的粉丝，{city}有演出吗？
                查找{artist}在{city}的下一场演唱会。""",
            ),
            (
                """{artist} plays in {city} on {date}; tickets cost {ticket_price}.
                The next concert is on {date}, tickets are {ticket_price}.
                On {date} you can see {artist} for {ticket_price}.""",
                """{artist}{date}在{city}演出，门票{ticket_price}元。
                下一场在{date}，票价{ticket_price}元。
                {date}可以看{artist}，票价{ticket_price}元。""",
            ),
            ("{artist} has no concert in {city}", "{artist}在{city}没有演出"),
            None,
            ("city", ("And in {city}?\nWhat about {city}?", "那{city}呢？\n{city}有吗？")),
        ),
    ),
    (
        Chain(
            "search_song",
            "play_track",
            "track_id",
            "track_id",
            (
                """Play "{song}" by {artist}.
                Find "{song}" by {artist} and play it.
                I'm in the mood for {artist}, put on "{song}".
                Could you look up "{song}" by {artist} and start it?""",
                """播放{artist}的《{song}》。
                找到{artist}的《{song}》并播放。
                想听{artist}，放一首《{song}》。
                能搜一下{artist}的《{song}》然后播放吗？""",
            ),
        ),
    ),
)

_LINK = ("Link to the picture", "图片链接")
_SHOW = (
    """Here it is: ![picture]({image_url})
    Done! ![image]({image_url})
    This is the result: ![result]({image_url})""",
    """图片好了：![图片]({image_url})
    完成！![image]({image_url})
    这是结果：![结果]({image_url})""",
)

IMAGES = Family(
    "images",
    ("a picture artist\nan image studio assistant\na graphics helper", "绘画助手\n图像工作室助理\n图片处理小帮手"),
    ("makes and edits pictures\nturns ideas into images", "生成和编辑图片\n把想法变成图像"),
    (
        Skill(
            "image_gen createImage draw_picture paint",
            ("Draw a picture from a description", "根据描述生成图片"),
            ("draw pictures", "画图"),
            (
                Param("prompt description text", "string", ("What the picture shows", "画面描述"), lambda d: d.scene()),
                choice(
                    "style look",
                    ("Drawing style", "画风"),
                    (("watercolor", "水彩"), ("cartoon", "卡通"), ("photo", "照片"), ("sketch", "素描")),
                    ("The style is {style}.\nUse {style} style.", "风格用{style}。\n画成{style}风格。"),
                ),
            ),
            lambda d, a: {"image_url": d.url("gen")},
            (
                """Draw {prompt}.
                Picture: {prompt}
                I'd like a picture of {prompt}.
                Could you paint {prompt}?
                My niece turns six, so make her an image of {prompt}.
                Please create an image that shows {prompt}.""",
                """画{prompt}。
                画图：{prompt}
                我想要一张图：{prompt}。
                能画一张{prompt}的画吗？
                侄女六岁生日，给她画{prompt}。
                请生成一张图片，内容是{prompt}。""",
            ),
            _SHOW,
            ("the drawing queue is full", "绘图队列已满"),
            ("{image_url}", "{image_url}"),
            ("prompt", ("Now draw {prompt}.\nAnd {prompt}, likewise.", "再画{prompt}。\n现在画{prompt}，其他一样。")),
            is_text_only=True,
        ),
        Skill(
            "remove_background cutOut bg_eraser",
            ("Remove the background of a picture", "去除图片背景"),
            ("remove backgrounds", "去除图片背景"),
            (Param("image_link picture_url photo", "string", _LINK, lambda d: d.url("up")),),
            lambda d, a: {"image_url": d.url("cut")},
            (
                """Remove the background of {image_link} please.
                {image_link} cut out
                I only want the person in {image_link}, take the background away.
                Could you erase the background from {image_link} for me?
                It's for my passport: make the background of {image_link} disappear.
                Give me {image_link} without background.""",
                """去掉 {image_link} 这张图的背景。
                给 {image_link} 抠图
                我只要 {image_link} 里的人，把背景去掉。
                能把 {image_link} 的背景擦掉吗？
                办护照用，请去掉 {image_link} 的背景。
                给我 {image_link} 的无背景版。""",
            ),
            _SHOW,
            ("the file {image_link} cannot be read", "文件 {image_link} 无法读取"),
            ("{image_url}", "{image_url}"),
            (
                "image_link",
                (
                    "And {image_link} too.\nNow the same with {image_link} please.",
                    "还有 {image_link} 。\n这张也一样： {image_link}",
                ),
            ),
            is_text_only=True,
        ),
        Skill(
            "resize_image imageScale change_size",
            ("Resize a picture to a width and height", "把图片调整为指定宽高"),
            ("resize pictures", "调整图片大小"),
            (
                Param("source source_image file", "string", _LINK, lambda d: d.url("up")),
                Param("width w", "integer", ("Width in pixels", "宽度（像素）"), lambda d: d.whole(64, 1920)),
                Param("height h", "integer", ("Height in pixels", "高度（像素）"), lambda d: d.whole(64, 1080)),
            ),
            lambda d, a: {"image_url": d.url("size"), "kb": d.whole(20, 900)},
            (
                """Make {source} {width} pixels wide and {height} pixels high.
                {source} to {width}x{height}
                I need {source} with width {width} and height {height}.
                Could you scale {source} to {width} by {height} pixels?
                The website only takes {width}x{height}, so resize {source} please.
                Change the size of {source} to {width} x {height}.""",
                """把 {source} 改成宽{width}像素、高{height}像素。
                {source} 调成{width}x{height}
                我需要 {source} 宽{width}高{height}。
                能把 {source} 缩放到{width}乘{height}像素吗？
                网站只收{width}x{height}的图，请调整 {source} 。
                把 {source} 的尺寸改为{width} x {height}。""",
            ),
            (
                """Your picture now has {kb} KB: ![resized]({image_url})
                Here is the new size, {kb} KB: ![image]({image_url})
                Resized to {width}x{height}: ![picture]({image_url})""",
                """图片现在{kb}KB：![图片]({image_url})
                新尺寸，{kb}KB：![image]({image_url})
                已调整为{width}x{height}：![图片]({image_url})""",
            ),
            ("the picture {source} is damaged", "图片 {source} 已损坏"),
            ("{image_url} ({kb} KB)", "{image_url} （{kb}KB）"),
        ),
        Skill(
            "qr_code makeQr barcode_maker",
            ("Make a QR code that holds a text", "把文字生成二维码"),
            ("make QR codes", "生成二维码"),
            (
                Param(
                    "data payload content",
                    "string",
                    ("Text to encode", "要编码的文字"),
                    lambda d: d.code("@@@-####-@@"),
                ),
                Param(
                    "pixels size_px",
                    "integer",
                    ("Edge length in pixels", "边长（像素）"),
                    lambda d: d.whole(80, 900),
                    ("Make it {pixels} pixels wide.\nEdge length {pixels}.", "边长{pixels}像素。\n要{pixels}像素宽。"),
                ),
            ),
            lambda d, a: {"image_url": d.url("qr")},
            (
                """Make a QR code with {data}.
                QR {data}
                I need a QR code that says {data}.
                Could you turn {data} into a QR code?
                The ticket printer is broken, give me a QR code of {data}.
                Please encode {data} as a QR code.""",
                """生成内容为{data}的二维码。
                二维码{data}
                我需要一个内容是{data}的二维码。
                能把{data}变成二维码吗？
                打印机坏了，给我{data}的二维码。
                请把{data}编码成二维码。""",
            ),
            _SHOW,
            ("the text is too long for a QR code", "文字过长，无法生成二维码"),
            ("{image_url}", "{image_url}"),
            ("data", ("And one with {data}.\nNow for {data}.", "再来一个{data}的。\n现在做{data}的。")),
            is_text_only=True,
        ),
    ),
    (
        Chain(
            "image_gen",
            "remove_background",
            "image_url",
            "image_link",
            (
                """Draw {prompt}, then remove the background.
                I want a picture of {prompt} without background. Draw it first, then cut it out.
                Paint {prompt} and erase the background afterwards.
                Could you create an image of {prompt} and take its background away?""",
                """画{prompt}，然后去掉背景。
                我想要{prompt}的图，先画出来，再抠掉背景。
                画一张{prompt}，之后把背景擦掉。
                能生成{prompt}的图片，再去除背景吗？""",
            ),
        ),
    ),
)

_DEVICE = Param(
    "device_id device", "string", ("Device id like DV-123", "设备编号，如DV-123"), lambda d: d.code("DV-###")
)

HOME = Family(
    "smart_home",
    ("a smart home assistant\na house butler\na home control helper", "智能家居助手\n家庭管家\n家居控制小帮手"),
    ("runs the devices of the house\nmakes the home comfortable", "控制家中的设备\n让家里更舒适"),
    (
        Skill(
            "set_temperature thermostatSet heat_room",
            ("Set the temperature of a room", "设置房间温度"),
            ("set the temperature of a room", "设置房间温度"),
            (
                Param("room room_name zone", "string", ("Which room", "房间"), lambda d: d.of("room")),
                Param("degrees temperature", "number", ("Degrees Celsius", "摄氏度数"), lambda d: d.real(16, 26, 1)),
            ),
            lambda d, a: {"current": d.real(12, 29, 1), "ready_min": d.whole(5, 60)},
            (
                """Set the {room} to {degrees} degrees.
                {room} {degrees} degrees
                I want it to be {degrees} degrees in the {room}.
                Could you change the {room} temperature to {degrees}?
                Brr, winter is here. Make the {room} {degrees} degrees.
                Please regulate the {room}: {degrees} degrees.""",
                """把{room}设为{degrees}度。
                {room}{degrees}度
                我想让{room}保持{degrees}度。
                能把{room}的温度调到{degrees}吗？
                冬天来了，好冷，{room}调成{degrees}度。
                请调节{room}温度：{degrees}度。""",
            ),
            (
                """The {room} is set to {degrees}; it has {current} degrees now and needs {ready_min} minutes.
                Done, the {room} goes from {current} to {degrees} degrees.
                The {room} reaches {degrees} degrees in {ready_min} minutes.""",
                """{room}已设为{degrees}度，现在{current}度，需要{ready_min}分钟。
                好了，{room}将从{current}度调到{degrees}度。
                {room}将在{ready_min}分钟后达到{degrees}度。""",
            ),
            ("the thermostat in the {room} does not respond", "{room}的温控器无响应"),
            None,
            ("room", ("And the {room}, same temperature.\nThe {room} too.", "{room}也一样。\n{room}也设成这个温度。")),
        ),
        Skill(
            "switch_light lightControl lamp_set",
            ("Switch the light of a room on or off", "打开或关闭房间的灯"),
            ("switch lights", "开关灯"),
            (
                Param("room where area", "string", ("Which room", "房间"), lambda d: d.of("room")),
                choice("state power", ("On or off", "开或关"), (("on", "打开"), ("off", "关掉"))),
                Param(
                    "brightness level",
                    "integer",
                    ("Brightness in percent", "亮度百分比"),
                    lambda d: d.whole(10, 100),
                    (
                        "The brightness should be {brightness} percent.\nBrightness {brightness}.",
                        "亮度{brightness}%。\n亮度设为{brightness}。",
                    ),
                ),
            ),
            lambda d, a: {"lamps": d.whole(2, 9), "watts": d.whole(10, 120)},
            (
                """Turn the light in the {room} {state}.
                {room} light {state}
                I need the light {state} in the {room}.
                Could you switch the {room} light {state}?
                My hands are full, the {room} light should be {state}.
                Please make sure the light in the {room} is {state}.""",
                """{state}{room}的灯。
                {state}{room}灯
                我需要{state}{room}的灯。
                能{state}{room}的灯吗？
                我腾不出手，请{state}{room}的灯。
                麻烦{state}一下{room}的灯。""",
            ),
            (
                """The {lamps} lamps in the {room} are {state} now.
                {lamps} lamps in the {room} were switched {state}.
                Done: {room} light {state}, {lamps} lamps.""",
                """已{state}{room}的{lamps}盏灯。
                {room}的{lamps}盏灯都{state}了。
                好的，{lamps}盏灯已{state}。""",
            ),
            ("no lamp found in the {room}", "{room}没有找到灯"),
            ("{lamps} lamps set to {state}", "{lamps}盏灯：{state}"),
            ("room", ("And in the {room}?\nThe {room} as well.", "{room}也一样。\n还有{room}。")),
        ),
        Skill(
            "find_device deviceLookup locate_gadget",
            ("Find the id of a device in a room", "查找房间里某个设备的编号"),
            ("find devices in the house", "查找家中的设备"),
            (
                Param("kind device_type gadget", "string", ("Kind of device", "设备类型"), lambda d: d.of("gadget")),
                Param("room located_in", "string", ("Which room", "房间"), lambda d: d.of("room")),
            ),
            lambda d, a: {"device_id": d.code("DV-###"), "online_since": d.date()},
            (
                """Which id does the {kind} in the {room} have?
                {kind} {room} id
                Is there a {kind} in the {room}?
                Could you find the {kind} of the {room}?
                The manual asks for it: what is the id of the {kind} in the {room}?
                Look up the {kind} in the {room}.""",
                """{room}的{kind}编号是多少？
                {room}{kind}编号
                {room}有{kind}吗？
                能找一下{room}的{kind}吗？
                说明书要填，{room}的{kind}编号是什么？
                查一下{room}里的{kind}。""",
            ),
            (
                """The {kind} in the {room} is {device_id}, online since {online_since}.
                It is device {device_id}, online since {online_since}.
                I found the {kind}: {device_id}.""",
                """{room}的{kind}是{device_id}，{online_since}上线。
                设备编号{device_id}，{online_since}起在线。
                找到{kind}：{device_id}。""",
            ),
            ("no {kind} in the {room}", "{room}没有{kind}"),
            None,
            ("room", ("And in the {room}?\nWhat about the {room}?", "那{room}呢？\n{room}的呢？")),
        ),
        Skill(
            "device_battery batteryLevel power_left",
            ("Read the battery level of a device", "读取设备的电池电量"),
            ("read battery levels", "读取设备电量"),
            (_DEVICE,),
            lambda d, a: {"battery": d.whole(3, 99), "days_left": d.whole(2, 200)},
            (
                """How much battery does {device_id} have?
                Battery {device_id}
                Is the battery of {device_id} empty?
                Could you check the charge of device {device_id}?
                It beeps all night long. What is the battery level of {device_id}?
                Do I have to change the battery of {device_id} soon?""",
                """{device_id}还有多少电？
                {device_id}电量
                {device_id}没电了吗？
                能查一下设备{device_id}的电量吗？
                它整夜嘀嘀响，{device_id}电量是多少？
                {device_id}快要换电池了吗？""",
            ),
            (
                """{device_id} has {battery} percent left, enough for {days_left} days.
                The battery of {device_id} is at {battery} percent.
                {battery} percent: {device_id} lasts another {days_left} days.""",
                """{device_id}还剩{battery}%的电，够用{days_left}天。
                {device_id}的电量为{battery}%。
                电量{battery}%，{device_id}还能用{days_left}天。""",
            ),
            ("device {device_id} is offline", "设备{device_id}离线"),
            ("{device_id}: {battery} %, {days_left} days", "{device_id}：{battery}%，{days_left}天"),
            ("device_id", ("And {device_id}?\nWhat about {device_id}?", "那{device_id}呢？\n{device_id}还有多少电？")),
        ),
        Skill(
            "heating_schedule planHeating set_heat_times",
            ("Plan when a room is heated each day", "设定房间每天的供暖时段"),
            ("plan heating times", "设定供暖时段"),
            (
                Param("room chamber", "string", ("Which room", "房间"), lambda d: d.of("room")),
                group(
                    "hours time_window",
                    ("Object with from and to, both HH:MM", "对象，含from和to，格式HH:MM"),
                    (
                        Param("from", "string", ("Start", "开始"), lambda d: f"0{d.whole(4, 9)}:{d.whole(10, 59)}"),
                        Param("to", "string", ("End", "结束"), lambda d: f"{d.whole(15, 23)}:{d.whole(10, 59)}"),
                    ),
                ),
                switch(
                    "weekends weekend_too",
                    ("Whether it holds on weekends", "周末是否也执行"),
                    ("On weekends too.\nInclude the weekends.", "周末也一样。\n包括周末。"),
                ),
            ),
            lambda d, a: {"plan_id": d.code("HP-##"), "kwh_a_day": d.real(1, 19, 1)},
            (
                """Heat the {room} from {hours_from} to {hours_to} every day.
                {room} heating {hours_from} to {hours_to}
                I want the {room} warm between {hours_from} and {hours_to}.
                Could you plan the heating of the {room} from {hours_from} until {hours_to}?
                The baby needs it cosy: {room} heated from {hours_from} to {hours_to}.
                Schedule heating for the {room}, {hours_from} to {hours_to}.""",
                """{room}每天{hours_from}到{hours_to}供暖。
                {room}供暖{hours_from}到{hours_to}
                我希望{room}在{hours_from}到{hours_to}之间暖和。
                能安排{room}从{hours_from}到{hours_to}供暖吗？
                宝宝怕冷，{room}请从{hours_from}到{hours_to}供暖。
                设定{room}的供暖时间，{hours_from}至{hours_to}。""",
            ),
            (
                """Plan {plan_id} heats the {room} from {hours_from} to {hours_to}, using {kwh_a_day} kWh a day.
                The plan is {plan_id}; it needs {kwh_a_day} kWh a day.
                Done: {plan_id} takes about {kwh_a_day} kWh daily.""",
                """计划{plan_id}：{room}{hours_from}到{hours_to}供暖，每天{kwh_a_day}度电。
                计划编号{plan_id}，每天耗电{kwh_a_day}度。
                好了，{plan_id}每天约用{kwh_a_day}度电。""",
            ),
            ("the {room} has no heater", "{room}没有暖气"),
            None,
            ("room", ("Same for the {room}.\nAnd the {room}, same hours.", "{room}也一样。\n{room}也按这个时间。")),
        ),
    ),
    (
        Chain(
            "find_device",
            "device_battery",
            "device_id",
            "device_id",
            (
                """How much battery does the {kind} in the {room} have?
                Check the charge of the {kind} in the {room}.
                Is the {kind} in the {room} running out of battery? I don't know its id.
                Find the {kind} in the {room} and tell me its battery level.""",
                """{room}的{kind}还有多少电？
                查一下{room}里{kind}的电量。
                {room}的{kind}快没电了吗？我不知道编号。
                找到{room}的{kind}，告诉我电池电量。""",
            ),
        ),
    ),
)

_CARD = Param("card card_no member_card", "string", ("Library card number", "借书证号"), lambda d: d.code("LC#####"))

BOOKS = Family(
    "books",
    ("a library assistant\na librarian\na reading helper", "图书馆助手\n图书管理员\n阅读顾问"),
    (
        "helps readers find and borrow books\nanswers questions about the library",
        "帮助读者查找和借阅图书\n解答图书馆的问题",
    ),
    (
        Skill(
            "search_book bookSearch catalog_lookup",
            ("Find a book in the library catalogue by title", "按书名在馆藏目录中查找图书"),
            ("find books in the catalogue", "查找馆藏图书"),
            (Param("title book_title", "string", ("Title of the book", "书名"), lambda d: d.work("book")),),
            lambda d, a: {"book_id": d.code("B#####"), "author": d.person(), "copies": d.whole(2, 9)},
            (
                """Do you have "{title}"?
                Book "{title}"
                Who wrote "{title}", and is it in the library?
                Could you look up the book "{title}"?
                Everybody in my class talks about "{title}". Can I borrow it here?
                Search the catalogue for "{title}".""",
                """你们有《{title}》吗？
                图书《{title}》
                《{title}》是谁写的，馆里有吗？
                能查一下《{title}》这本书吗？
                同学们都在聊《{title}》，这里能借到吗？
                在目录里搜《{title}》。""",
            ),
            (
                """"{title}" by {author} is book {book_id}; we have {copies} copies.
                Yes, {copies} copies of "{title}" by {author}, id {book_id}.
                {author} wrote it; the book id is {book_id}.""",
                """《{title}》，{author}著，编号{book_id}，共{copies}本。
                有的，{author}的《{title}》有{copies}本，编号{book_id}。
                作者是{author}，图书编号{book_id}。""",
            ),
            ('"{title}" is not in the catalogue', "目录中没有《{title}》"),
            None,
            ("title", ('And "{title}"?\nWhat about "{title}"?', "那《{title}》呢？\n《{title}》有吗？")),
        ),
        Skill(
            "reserve_book holdBook book_request",
            ("Reserve a book for pickup at a branch", "预约图书并到分馆取书"),
            ("reserve books", "预约图书"),
            (
                Param(
                    "book_id item_id volume",
                    "string",
                    ("Book id like B12345", "图书编号，如B12345"),
                    lambda d: d.code("B#####"),
                ),
                Param(
                    "branch library pickup_at", "string", ("Branch for pickup", "取书分馆"), lambda d: d.of("branch")
                ),
            ),
            lambda d, a: {"ready_on": d.date(), "queue": d.whole(2, 30)},
            (
                """Reserve book {book_id} for pickup at the {branch} branch.
                {book_id} to {branch}
                I'd like to fetch {book_id} at the {branch} branch, please hold it.
                Could you put {book_id} aside for me in the {branch} branch?
                I finally have time to read! Reserve {book_id} at {branch}.
                Please request {book_id} and send it to the {branch} branch.""",
                """预约{book_id}，在{branch}取。
                {book_id}送到{branch}
                我想在{branch}取{book_id}，请留一下。
                能在{branch}给我留一本{book_id}吗？
                终于有空看书了！在{branch}预约{book_id}。
                请预约{book_id}，送到{branch}。""",
            ),
            (
                """Book {book_id} will be ready at {branch} on {ready_on}.
                You are number {queue} in the queue; pickup at {branch} from {ready_on}.
                Reserved: fetch it at {branch} on {ready_on}.""",
                """{book_id}将于{ready_on}在{branch}可取。
                您排在第{queue}位，{ready_on}起可在{branch}取书。
                预约成功，请{ready_on}到{branch}取书。""",
            ),
            ("book {book_id} cannot be reserved", "{book_id}无法预约"),
            ("Ready on {ready_on}, queue {queue}", "{ready_on}可取，排队{queue}"),
            (
                "book_id",
                (
                    "And {book_id}, same branch.\n{book_id} as well, please.",
                    "{book_id}也要，同一个馆。\n还有{book_id}。",
                ),
            ),
        ),
        Skill(
            "renew_loan extendLoan prolong_book",
            ("Extend the loan of a book by some weeks", "把图书借期延长几周"),
            ("renew loans", "续借图书"),
            (
                Param("book book_no loan", "string", ("Book id", "图书编号"), lambda d: d.code("B#####")),
                Param("weeks extra_weeks", "integer", ("Weeks to add", "延长周数"), lambda d: d.whole(2, 6)),
            ),
            lambda d, a: {"due": d.date(), "renewals_left": d.whole(2, 5)},
            (
                """Extend my loan of {book} by {weeks} weeks.
                Renew {book}, {weeks} weeks
                I need {weeks} more weeks for book {book}.
                Could I keep {book} for another {weeks} weeks?
                I read slowly, sorry! Please give me {weeks} extra weeks for {book}.
                Please renew {book} for {weeks} weeks.""",
                """把{book}续借{weeks}周。
                续借{book}，{weeks}周
                {book}我还需要{weeks}周。
                {book}可以再借{weeks}周吗？
                我看书慢，请把{book}延长{weeks}周。
                请为{book}办理{weeks}周续借。""",
            ),
            (
                """Book {book} is now due on {due}, with {renewals_left} renewals left.
                You can keep {book} until {due}.
                Renewed: the new date is {due} and you have {renewals_left} renewals left.""",
                """{book}的新还书日是{due}，还可续借{renewals_left}次。
                {book}可以借到{due}。
                续借成功，新日期{due}，剩余续借{renewals_left}次。""",
            ),
            ("book {book} is reserved by another reader", "{book}已被其他读者预约"),
            None,
            ("book", ("And {book} for the same time.\n{book} too, please.", "{book}也续同样长。\n还有{book}。")),
        ),
        Skill(
            "my_loans borrowedBooks card_loans",
            ("List the books lent to a library card", "列出借书证上的在借图书"),
            ("list borrowed books", "列出在借图书"),
            (_CARD,),
            lambda d, a: {"count": d.whole(2, 15), "next_due": d.date()},
            (
                """Which books are out on card {card}?
                Loans {card}
                How many books did I borrow with card {card}?
                Could you check the loans of {card}?
                I don't want to pay a fine. When are the books on {card} due?
                Show the borrowed books for card {card}.""",
                """借书证{card}借了哪些书？
                {card}借阅
                我用{card}借了几本书？
                能查一下{card}的借阅情况吗？
                我不想交罚款，{card}上的书什么时候到期？
                显示借书证{card}的在借图书。""",
            ),
            (
                """Card {card} has {count} books; the next one is due on {next_due}.
                You borrowed {count} books, next due on {next_due}.
                {count} books are out on {card}; return the first by {next_due}.""",
                """{card}借了{count}本书，最近一本{next_due}到期。
                您在借{count}本，最早{next_due}到期。
                {card}在借{count}本，请在{next_due}前归还第一本。""",
            ),
            ("card {card} has expired", "借书证{card}已过期"),
            None,
            ("card", ("And card {card}?\nWhat about {card}?", "那{card}呢？\n借书证{card}呢？")),
        ),
        Skill(
            "opening_hours branchHours library_times",
            ("Tell the opening hours of a branch on a date", "查询分馆某天的开放时间"),
            ("tell opening hours", "查询开放时间"),
            (
                Param("branch site", "string", ("Branch name", "分馆名称"), lambda d: d.of("branch")),
                Param("date day", "string", ("Date, YYYY-MM-DD", "日期，YYYY-MM-DD"), lambda d: d.date()),
            ),
            lambda d, a: {
                "opens": f"0{d.whole(7, 9)}:{d.whole(10, 50)}",
                "closes": f"{d.whole(16, 22)}:{d.whole(10, 50)}",
            },
            (
                """When is the {branch} branch open on {date}?
                {branch} {date} hours
                I plan to come to the {branch} branch on {date}. When does it close?
                Could you tell me the opening hours of {branch} on {date}?
                My train gets in early on {date}, when does the {branch} branch open?
                Is the {branch} library open on {date}?""",
                """{branch}{date}几点开门？
                {branch}{date}开放时间
                我打算{date}去{branch}，几点关门？
                能告诉我{branch}在{date}的开放时间吗？
                我{date}很早到，{branch}几点开？
                {date}{branch}开放吗？""",
            ),
            (
                """On {date} the {branch} branch is open from {opens} to {closes}.
                {branch} opens at {opens} and closes at {closes}.
                You can visit {branch} between {opens} and {closes}.""",
                """{date}{branch}{opens}开门，{closes}关门。
                {branch}{opens}到{closes}开放。
                您可以在{opens}至{closes}之间去{branch}。""",
            ),
            ("no hours known for {branch} on {date}", "没有{branch}在{date}的开放时间"),
            ("{branch}: {opens} to {closes}", "{branch}：{opens}到{closes}"),
            ("date", ("And on {date}?\nWhat about {date}?", "那{date}呢？\n{date}几点开？")),
        ),
    ),
    (
        Chain(
            "search_book",
            "reserve_book",
            "book_id",
            "book_id",
            (
                """Find "{title}" and reserve it for pickup at the {branch} branch.
                I want to read "{title}". Look it up and hold it for me at the {branch} branch.
                Reserve "{title}" at the {branch} branch, please. I don't know the book id.
                Could you search for "{title}" and have it sent to the {branch} branch?""",
                """找到《{title}》，预约到{branch}取。
                我想看《{title}》，查一下并在{branch}给我留一本。
                请在{branch}预约《{title}》，我不知道编号。
                能搜一下《{title}》，然后送到{branch}吗？""",
            ),
        ),
    ),
)

FAMILIES = (MUSIC, IMAGES, HOME, BOOKS)

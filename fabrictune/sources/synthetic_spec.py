"""The vocabulary of the synthetic catalogue: tools, chains, families, and the pools of values.

Every text is a pair (English, Chinese). Where a pair offers several wordings, each stands on a line of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from fabrictune.dialogue import Json

LANGUAGES = ("en", "zh")
Pair = tuple[str, str]
Values = dict[str, Json]  # by canonical parameter name or fact name


def in_language(pair: Pair, language: str) -> str:
    return pair[LANGUAGES.index(language)]


def wordings(pair: Pair, language: str) -> list[str]:
    """The non-empty lines of one side of a pair."""
    return [line.strip() for line in in_language(pair, language).splitlines() if line.strip()]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().split("; "))


POOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "city": (
        _words(
            "Paris Rome Oslo Madrid Lisbon Vienna Prague Dublin Athens Berlin Helsinki Warsaw Budapest Zurich Geneva "
            "Toronto Boston Chicago Denver Seattle Austin Miami Dallas Portland Tokyo Osaka Seoul Bangkok Hanoi Manila "
            "Jakarta Mumbai Delhi Cairo Nairobi Lagos Casablanca Sydney Perth Auckland Lima Bogota Quito "
            "Santiago Havana "
            "Munich Hamburg Lyon Porto Krakow Bergen Malmo Leeds Bristol Glasgow Naples Turin Seville"
        ),
        _words(
            "北京 上海 广州 深圳 杭州 南京 苏州 武汉 成都 重庆 西安 长沙 郑州 青岛 济南 大连 沈阳 哈尔滨 长春 "
            "天津 厦门 "
            "福州 南昌 合肥 昆明 贵阳 南宁 海口 三亚 兰州 银川 西宁 拉萨 太原 无锡 宁波 温州 珠海 桂林 洛阳 东京 首尔 "
            "曼谷 巴黎 伦敦 罗马 柏林 马德里 悉尼 纽约"
        ),
    ),
    "first": (
        _words(
            "Anna Ben Clara David Elena Felix Grace Hugo Irene Jonas Karin Liam Maria Noah Olga Peter Rosa Samuel Tina "
            "Victor Wendy Yusuf Zoe Amir Bianca Carlos Dora Emil Farah Gavin Helen Ivan Julia Kofi Lena Marcus"
        ),
        _words("王 李 张 刘 陈 杨 黄 赵 周 吴 徐 孙 马 朱 胡 郭 何 林 高 罗 郑 梁 谢 宋 唐 许 韩 冯 邓 曹"),
    ),
    "last": (
        _words(
            "Larsen Novak Okafor Meyer Rossi Tanaka Silva Jensen Kowalski Dubois Haddad Murphy Schmidt Costa Lindqvist "
            "Petrov Ahmed Walker Nguyen Fischer Moreau Bianchi Keller Osei Parker Romano Santos Turner Vargas Weber "
            "Young Zimmer Brandt Castillo Duarte Ellis"
        ),
        _words(
            "伟 芳 娜 敏 静 磊 洋 艳 勇 军 杰 娟 涛 明 超 秀英 志强 建国 晓明 雨桐 子涵 浩然 思远 佳怡 文博 欣悦 俊熙 "
            "梦琪 嘉豪 海燕 丽华 国栋 雪梅 春生 立新 家宁"
        ),
    ),
    "sky": (
        _lines("sunshine; clouds; light rain; heavy rain; snow; fog; clear skies; thunderstorms; drizzle; strong wind"),
        _words("晴 多云 小雨 大雨 小雪 雾 阴 雷阵雨 毛毛雨 中雨"),
    ),
    "topic": (
        _lines(
            "Budget review; Team lunch; Project kickoff; Dentist visit; Sales report; Yoga class; Design workshop; "
            "Client call; Hiring plan; Roadmap talk; Book club; Office move; Launch party; Parent meeting; "
            "Safety drill; "
            "Quarterly results; Garden day; Website relaunch; Press briefing; Contract draft; Travel costs; "
            "Code review; "
            "Annual checkup; Photo shoot; Chess night"
        ),
        _words(
            "预算评审 部门聚餐 项目启动会 牙医复诊 销售汇报 瑜伽课 设计研讨 客户电话会 招聘计划 路线图讨论 "
            "读书会 办公室搬迁 "
            "新品发布会 家长会 消防演练 季度总结 植树活动 官网改版 媒体沟通会 合同初稿 差旅费用 代码评审 "
            "年度体检 产品拍摄 围棋之夜"
        ),
    ),
    "message": (
        _lines(
            "the meeting moved to the big room; the files are ready; I will be ten minutes late; "
            "please sign the contract; "
            "lunch is on me tomorrow; the parcel has arrived; we need one more chair; the draft looks great; "
            "the printer works again; see you at the station; the keys are with the doorman; the demo went well"
        ),
        _words(
            "会议改到大会议室 文件已经准备好了 我会晚到十分钟 请尽快签合同 明天午饭我请 包裹已经到了 还缺一把椅子 "
            "初稿写得很好 打印机修好了 车站见 钥匙放在门卫那里 演示很顺利"
        ),
    ),
    "airline": (
        _lines(
            "Norlight Air; Blue Heron; SkyBridge; Alpina; Pacifica; Meridian; Redwing; Aurora Jet; Cedar Air; Swiftline"
        ),
        _words("云翼航空 蓝鹭航空 天桥航空 北极光航空 长风航空 海鸥航空 金雁航空 晨曦航空 远航航空 松江航空"),
    ),
    "hotel": (
        _lines(
            "Hotel Aurora; The Old Mill; Harbor Inn; Park Palace; Villa Rosa; Hotel Linden; The Blue Door; Casa Luna; "
            "Station House; Hotel Meridian; Garden Court; Lakeside Lodge; The Copper Bell; Riverside Suites"
        ),
        _words(
            "晨光酒店 老磨坊客栈 港湾宾馆 花园大酒店 玫瑰山庄 菩提酒店 蓝门民宿 月亮湾酒店 车站宾馆 子午线酒店 "
            "庭院酒店 "
            "湖畔小筑 铜铃旅馆 江景公寓酒店"
        ),
    ),
    "street": (
        _lines(
            "Mill Street; Station Road; Queen Square; Harbor Lane; Oak Avenue; Church Hill; River Walk; Market Street; "
            "Linden Street; Castle Road; Garden Row; Bridge Street; King's Avenue; Elm Drive; Canal Street; Tower Road"
        ),
        _words("人民路 解放路 中山路 建设大街 和平路 文化路 新华街 滨江路 桃园路 青年路 胜利街 朝阳路 长江路 花园街"),
    ),
    "place": (
        _lines(
            "Central Park; City Hall; Victoria Square; Union Station; Opera Square; Castle Hill; Market Hall; Pier 4; "
            "Terminal 2; Liberty Plaza; Museum Island; Stadium North; Harbor Station; Lincoln College"
        ),
        _words(
            "火车站 美术馆 中央公园 机场 市政府 老码头 动物园 体育场 师范大学 大剧院 胜利广场 水产市场 古城墙 植物园"
        ),
    ),
    "amenity": (
        _lines("pharmacy; bank; supermarket; petrol station; bakery; post office; bike shop; hairdresser; florist"),
        _words("药店 银行 超市 加油站 面包店 邮局 自行车店 理发店 花店"),
    ),
    "product": (
        _lines(
            "desk lamp; coffee grinder; bike helmet; phone case; wool scarf; camping tent; garden chair; rain jacket; "
            "bread knife; bluetooth speaker; yoga mat; reading chair; water bottle; wall clock; board game; backpack; "
            "travel mug; picture frame; bath towel; tool box; sun hat; keyboard; tea pot; wall shelf"
        ),
        _words(
            "台灯 咖啡研磨机 登山鞋 手机壳 羊毛围巾 露营帐篷 花园椅 雨衣 面包刀 蓝牙音箱 瑜伽垫 办公椅 保温杯 "
            "闹钟 桌游 "
            "双肩包 电热水壶 相框 浴巾 跑步鞋 雨伞 键盘 茶壶 置物架"
        ),
    ),
    "brand": (
        _words("Norra Kelvo Fable Tindra Maxon Ulo Perla Quanta Brio Zento Halden Vireo"),
        _words("诺拉 凯沃 寓言 天达 迈森 优乐 珍珠 广达 百瑞 森拓 海登 绿雀"),
    ),
    "company": (
        _lines(
            "Norwind Energy; Bluepeak Software; Harlow Foods; Kestrel Motors; Lumen Optics; Tidewater Shipping; "
            "Granite Bank; Solara Power; Quill Media; Ember Robotics; Fernhill Pharma; Atlas Freight; Cobalt Mining"
        ),
        _words(
            "北风能源 蓝峰软件 海乐食品 红隼汽车 流明光学 潮汐航运 磐石银行 索拉电力 羽笔传媒 余烬机器人 "
            "蕨山制药 阿特拉斯物流 钴蓝矿业"
        ),
    ),
    "cuisine": (
        _words(
            "Japanese Mexican Thai Greek Turkish Korean French Spanish Lebanese Vietnamese Peruvian Moroccan Chinese"
        ),
        _words("川菜 粤菜 湘菜 日料 韩餐 意大利菜 法餐 泰餐 东北菜 火锅 西班牙菜 印度菜 越南菜"),
    ),
    "restaurant": (
        _lines(
            "Blue Fork; Casa Nonna; Little Saigon; The Tin Spoon; Olive Yard; Ginger House; Saffron Gate; Red Lantern; "
            "Salt and Stone; The Green Table; Mama Lucia; Kimchi Corner; Harvest Room; The Pepper Mill"
        ),
        _words("蓝叉餐厅 外婆家常 小西贡 锡勺小馆 橄榄庭 姜屋 藏红花 红灯笼 盐与石 绿桌 老街坊 泡菜角 丰收堂 胡椒磨坊"),
    ),
    "dish": (
        _lines(
            "tomato soup; grilled salmon; mushroom risotto; lentil curry; beef noodles; apple tart; green salad; "
            "fish tacos; onion pie; lamb stew; spring rolls; cheese platter; pumpkin gnocchi; rice pudding"
        ),
        _words(
            "番茄汤 烤三文鱼 蘑菇烩饭 咖喱扁豆 牛肉面 苹果派 蔬菜沙拉 鱼肉卷饼 葱油饼 红烧羊肉 春卷 宫保鸡丁 "
            "南瓜饼 杏仁豆腐"
        ),
    ),
    "song": (
        _lines(
            "Paper Moons; Slow River; Glass Garden; Midnight Tram; Honey Rust; Northern Sky; Borrowed Light; "
            "Quiet Thunder; Copper Rain; Lost Postcards; Salt Wind; Velvet Road; Winter Bees; Silver Stairs; Open Doors"
        ),
        _words(
            "纸月亮 慢河 玻璃花园 午夜电车 蜜与锈 北方的天 借来的光 安静的雷 铜雨 遗失的明信片 海风 丝绒路 冬蜂 "
            "银色楼梯 敞开的门"
        ),
    ),
    "artist": (
        _lines(
            "Nina Vale; The Foxgloves; Marlow Kid; Ida Storm; Paper Kites Club; Jonah Reed; Luna Park Trio; "
            "Echo Valley; "
            "The Brass Owls; Mira Sol; Tom Harrow; Velvet Coast"
        ),
        _words("林晚秋 毛地黄乐队 马洛 陆风 纸鸢乐团 江野 月亮公园 回声谷乐队 铜猫头鹰 米拉 何远山 丝绒海岸"),
    ),
    "room": (
        _lines("kitchen; living room; bedroom; office; hallway; bathroom; garage; nursery; guest room; attic; cellar"),
        _words("厨房 客厅 卧室 书房 走廊 浴室 车库 儿童房 客房 阁楼 地下室"),
    ),
    "gadget": (
        _lines(
            "smoke detector; motion sensor; door lock; window sensor; humidifier; robot vacuum; camera; water sensor"
        ),
        _words("烟雾报警器 人体传感器 门锁 窗户传感器 空气净化器 扫地机器人 摄像头 水浸传感器"),
    ),
    "book": (
        _lines(
            "The Salt Road; A House of Maps; Winter Orchard; The Clockmaker's Son; Rivers of Ink; The Last Ferry; "
            "Letters to Odessa; Stone and Feather; The Quiet Island; Night Gardens; The Weaver's Knot; Under Tin Roofs"
        ),
        _words(
            "盐路 地图之屋 冬日果园 钟表匠之子 墨之河 最后的渡轮 寄往敖德萨的信 石与羽 寂静之岛 夜花园 织者之结 "
            "铁皮屋檐下"
        ),
    ),
    "epithet": (
        _words(
            "Broken Golden Hidden Silent Burning Distant Crooked Frozen Gentle Hollow Scarlet Wandering Forgotten "
            "Restless Painted Endless Stolen Wild"
        ),
        _words(
            "破碎的 金色的 隐秘的 沉默的 燃烧的 遥远的 弯曲的 冰冻的 温柔的 空心的 绯红的 "
            "流浪的 被遗忘的 不安的 无尽的 小小的 野性的"
        ),
    ),
    "thing": (
        _words(
            "Bridge Lantern Harvest Mirror Compass Orchard Violin Harbor Feather Kingdom Ladder Comet Meadow Window "
            "Anchor Tower Clock Summer Letter Tide"
        ),
        _words("桥 灯笼 收获 镜子 罗盘 果园 小提琴 港湾 羽毛 王国 梯子 彗星 草地 窗户 船锚 高塔 时钟 夏天 信 潮汐"),
    ),
    "branch": (
        _lines("Central; Northside; Harbor; Westgate; Riverside; Hillcrest; Old Town; Parkview"),
        _words("中心馆 城北馆 港口馆 西门馆 滨河馆 山顶馆 老城馆 公园馆"),
    ),
    "problem": (
        _lines(
            "printer prints blank pages; VPN keeps dropping; laptop will not charge; no sound in calls; "
            "mailbox is full; "
            "second monitor stays black; wifi is slow on floor 3; cannot open shared drive; keyboard types twice; "
            "badge reader is broken; browser crashes at start; calendar does not sync"
        ),
        _words(
            "打印机打出白纸 VPN总是断线 笔记本充不进电 会议没有声音 邮箱已满 第二屏幕黑屏 三楼无线网很慢 "
            "打不开共享盘 键盘重复输入 "
            "门禁读卡器坏了 浏览器启动崩溃 日历无法同步"
        ),
    ),
    "fault": (
        _words("printer VPN laptop headset mailbox monitor wifi drive keyboard badge browser projector scanner phone"),
        _words("打印机 VPN 笔记本 耳机 邮箱 显示器 无线网 共享盘 键盘 门禁卡 浏览器 投影仪 扫描仪 电话"),
    ),
    "animal": (
        _lines(
            "a red fox; an old turtle; two owls; a white horse; a sleepy cat; a small dragon; a blue whale; a panda"
        ),
        _words("一只红狐狸 一只老乌龟 两只猫头鹰 一匹白马 一只瞌睡的猫 一条小龙 一头蓝鲸 一只熊猫"),
    ),
    "deed": (
        _lines(
            "reading a book; drinking tea; riding a bike; playing chess; painting a wall; baking bread; flying a kite"
        ),
        _words("在读书 在喝茶 在骑自行车 在下棋 在刷墙 在烤面包 在放风筝"),
    ),
    "setting": (
        _lines(
            "in the rain; at sunset; on the moon; in a forest; under a bridge; on a rooftop; in the snow; by a lake"
        ),
        _words("雨中 夕阳下 月球上 森林里 桥下 屋顶上 雪地里 湖边"),
    ),
    "company_kind": (
        _words("Energy Software Foods Motors Optics Shipping Bank Media Robotics Pharma Freight Mining Textiles Labs"),
        _words("能源 软件 食品 汽车 光学 航运 银行 传媒 机器人 制药 物流 矿业 纺织 科技"),
    ),
    "hotel_kind": (
        _words("Inn Palace Lodge Suites Court House Resort Hotel Plaza Garden"),
        _words("客栈 大酒店 山庄 公寓 庭院 宾馆 度假村 酒店 民宿 会馆"),
    ),
    "restaurant_kind": (
        _words("Kitchen Grill Bistro Table Garden Diner Tavern Canteen Cellar Terrace"),
        _words("小厨 烤肉 食堂 餐桌 花园餐厅 饭庄 酒家 茶餐厅 私房菜 小馆"),
    ),
    "color": (
        _words("red blue green gold grey white black violet"),
        _words("红色 蓝色 绿色 金色 灰色 白色 黑色 紫色"),
    ),
}


@dataclass(frozen=True)
class Draw:
    """Random values in one language, all from one generator."""

    rng: random.Random
    language: str

    def of(self, pool: str) -> str:
        return self.rng.choice(POOLS[pool][LANGUAGES.index(self.language)])

    def some(self, pool: str, low: int, high: int) -> list[str]:
        return self.rng.sample(POOLS[pool][LANGUAGES.index(self.language)], self.rng.randint(low, high))

    def pick(self, *pairs: Pair) -> str:
        return in_language(self.rng.choice(pairs), self.language)

    def whole(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def real(self, low: float, high: float, digits: int = 2) -> float:
        """A decimal number; a whole one comes back as int, so that it reads 5 and not 5.0."""
        number = round(self.rng.uniform(low, high), digits)
        return int(number) if number.is_integer() else number

    def code(self, pattern: str) -> str:
        """The pattern with a random digit for each # (never a leading 0) and a random capital for each @."""
        swap = {"#": "123456789", "@": "ABCDEFGHJKLMNPQRSTUVWXYZ"}
        return "".join(self.rng.choice(swap[mark]) if mark in swap else mark for mark in pattern)

    def date(self) -> str:
        return f"{self.rng.randint(2025, 2027)}-{self.rng.randint(1, 12):02d}-{self.rng.randint(1, 28):02d}"

    def clock(self) -> str:
        return f"{self.rng.randint(7, 21):02d}:{self.rng.choice((0, 15, 30, 45)):02d}"

    def person(self) -> str:
        return self.of("first") + (" " if self.language == "en" else "") + self.of("last")

    def email(self) -> str:
        initial, last = self.rng.choice("abcdefghijklmnoprstw"), self.rng.choice(POOLS["last"][0]).lower()
        domain = self.rng.choice(("nordmail.com", "acme.io", "postbox.org", "mail.net", "corp.cn"))
        return f"{initial}{last}{self.rng.randint(2, 99)}@{domain}"

    def url(self, kind: str) -> str:
        host = self.rng.choice(("img.fabric.ai", "cdn.pixa.io", "static.artbox.net", "files.lumo.cn"))
        return f"https://{host}/{kind}/{self.rng.getrandbits(28):07x}.png"

    def address(self) -> str:
        number, street = self.rng.randint(2, 199), self.of("street")
        return f"{number} {street}" if self.language == "en" else f"{street}{number}号"

    def work(self, pool: str) -> str:
        """A title from the pool, or one made up of an epithet and a thing."""
        if self.rng.random() < 0.3:
            return self.of(pool)
        return self.of("epithet") + (" " if self.language == "en" else "") + self.of("thing")

    def business(self, pool: str) -> str:
        """A name from the pool, or one made up of a brand and a kind of business."""
        if self.rng.random() < 0.4:
            return self.of(pool)
        return self.of("brand") + (" " if self.language == "en" else "") + self.of(f"{pool}_kind")

    def topic(self) -> str:
        topic, person = self.of("topic"), self.person()
        if self.rng.random() < 0.5:
            return topic
        return f"{topic} with {person}" if self.language == "en" else f"与{person}的{topic}"

    def scene(self) -> str:
        animal, deed, setting = self.of("animal"), self.of("deed"), self.of("setting")
        return f"{animal} {deed} {setting}" if self.language == "en" else f"{setting}{animal}{deed}"


Sampler = Callable[[Draw], Json]


@dataclass(frozen=True)
class Param:
    """A parameter. The first of its `names` is the canonical one, used as the slot {name} in every template.

    With `when` the parameter is optional: `when` is the sentence by which a user asks for it. `choices` make an enum
    whose values are the English words; `inner` are the properties of an object, used as slots {name_inner}.
    """

    names: str
    kind: str
    text: Pair
    draw: Sampler
    when: Pair | None = None
    choices: tuple[Pair, ...] = ()
    items: str = "string"
    inner: tuple[Param, ...] = ()

    @property
    def name(self) -> str:
        return self.names.split()[0]


def choice(names: str, text: Pair, choices: tuple[Pair, ...], when: Pair | None = None) -> Param:
    """A string parameter that takes one of `choices`."""
    return Param(names, "string", text, lambda d: d.rng.choice(choices)[0], when, choices)


def group(names: str, text: Pair, inner: tuple[Param, ...]) -> Param:
    """An object parameter holding every one of `inner`."""
    return Param(names, "object", text, lambda d: {part.name: part.draw(d) for part in inner}, inner=inner)


def switch(names: str, text: Pair, when: Pair) -> Param:
    """An optional boolean that is only ever asked to be true."""
    return Param(names, "boolean", text, lambda d: True, when)


@dataclass(frozen=True)
class Skill:
    """A tool with everything needed to talk about it.

    `can` completes "I can ..."; `ask` and `answer` are wordings over slots (arguments; answers also facts); `facts`
    draws what the tool finds; an observation is the facts as JSON or, with `observe`, one of its wordings (always, if
    `is_text_only`); `fail` is the reason a failing call gives; `vary` names the parameter a follow-up changes, with the
    wordings for it.
    """

    names: str
    text: Pair
    can: Pair
    params: tuple[Param, ...]
    facts: Callable[[Draw, Values], Values]
    ask: Pair
    answer: Pair
    fail: Pair
    observe: Pair | None = None
    vary: tuple[str, Pair] | None = None
    is_text_only: bool = False

    @property
    def name(self) -> str:
        return self.names.split()[0]


@dataclass(frozen=True)
class Chain:
    """Two tools of a family: parameter `target` of `second` is the fact `fact` found by `first`.

    A parameter that both tools have takes the same value in both.
    """

    first: str
    second: str
    fact: str
    target: str
    ask: Pair


@dataclass(frozen=True)
class Family:
    """Tools of one domain. `roles` and `duties` complete "You are ..." and "You ... who ..."."""

    name: str
    roles: Pair
    duties: Pair
    skills: tuple[Skill, ...]
    chains: tuple[Chain, ...]

    def skill(self, name: str) -> Skill:
        return next(skill for skill in self.skills if skill.name == name)

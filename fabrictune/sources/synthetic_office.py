"""Synthetic tools for the office: calendar, mail, support tickets, staff."""

from __future__ import annotations

from fabrictune.sources.synthetic_spec import Chain, Draw, Family, Param, Skill, choice, switch


def _people(d: Draw) -> list[str]:
    return list(dict.fromkeys(d.person() for _ in range(d.whole(2, 3))))


_DATE = Param("date day on_date", "string", ("Date, YYYY-MM-DD", "日期，YYYY-MM-DD"), lambda d: d.date())

CALENDAR = Family(
    "calendar",
    ("a calendar assistant\na personal secretary\na scheduling helper", "日程助手\n私人秘书\n日历管家"),
    ("keeps the user's schedule in order\nplans meetings and appointments", "管理用户的日程\n安排会议和约会"),
    (
        Skill(
            "create_event addEvent schedule_meeting new_appointment",
            ("Put a new event into the user's calendar", "在用户日历中新建一个日程"),
            ("add events to your calendar", "往日历里添加日程"),
            (
                Param("title subject event_name", "string", ("Title of the event", "日程标题"), lambda d: d.topic()),
                _DATE,
                Param("time start_time", "string", ("Start time, HH:MM", "开始时间，HH:MM"), lambda d: d.clock()),
                Param(
                    "attendees invitees",
                    "array",
                    ("Names of people to invite", "要邀请的人"),
                    _people,
                    (
                        "Invite {attendees}.\nPlease invite {attendees} as well.",
                        "邀请{attendees}。\n还要叫上{attendees}。",
                    ),
                ),
            ),
            lambda d, a: {"event_id": d.code("EV####")},
            (
                """Add "{title}" to my calendar on {date} at {time}.
                New event: {title}, {date}, {time}
                I have "{title}" on {date} at {time}, please note it down.
                Could you schedule "{title}" for {time} on {date}?
                I keep forgetting things, so put "{title}" in for {date}, {time}.
                On {date} at {time} there is "{title}". Make an entry for it.""",
                """把“{title}”加到日历，{date} {time}。
                新日程：{title}，{date}，{time}
                我{date} {time}有“{title}”，请记下来。
                能把“{title}”安排在{date}的{time}吗？
                我老忘事，帮我记一下{date} {time}的“{title}”。
                {date} {time}有“{title}”，建个日程。""",
            ),
            (
                """"{title}" is in your calendar on {date} at {time} (event {event_id}).
                I created event {event_id}: "{title}", {date} at {time}.
                Done, event {event_id} is set for {time} on {date}.""",
                """“{title}”已加入日历：{date} {time}，编号{event_id}。
                已创建日程{event_id}：{date} {time}“{title}”。
                好了，日程{event_id}定在{date} {time}。""",
            ),
            ("there is already an event on {date} at {time}", "{date} {time}已有其他日程"),
            ("Event {event_id} created", "已创建日程{event_id}"),
            (
                "date",
                (
                    "Put the same on {date} as well.\nAnd once more on {date}.",
                    "{date}也加一个同样的。\n{date}再来一次。",
                ),
            ),
        ),
        Skill(
            "list_events showAgenda day_schedule",
            ("List what is in the calendar on a date", "列出某天的日程安排"),
            ("list your events of a day", "列出某天的日程"),
            (Param("date for_day", "string", ("Date, YYYY-MM-DD", "日期，YYYY-MM-DD"), lambda d: d.date()),),
            lambda d, a: {"first": d.topic(), "at": d.clock(), "count": d.whole(2, 8)},
            (
                """What do I have on {date}?
                Agenda {date}
                Am I busy on {date}?
                Could you list my events for {date}?
                My wife wants to go out on {date}. What is in my calendar?
                Show me the schedule of {date}.""",
                """我{date}有什么安排？
                {date}日程
                我{date}忙吗？
                能列出我{date}的日程吗？
                老婆想{date}出去玩，我那天日历上有什么？
                看看{date}的安排。""",
            ),
            (
                """You have {count} events on {date}; the first is "{first}" at {at}.
                On {date} there are {count} events, starting with "{first}" at {at}.
                Your day starts with "{first}" at {at}; there are {count} events in all.""",
                """您{date}有{count}个日程，第一个是{at}的“{first}”。
                {date}共{count}项，最早是{at}“{first}”。
                当天从{at}的“{first}”开始，一共{count}个日程。""",
            ),
            ("calendar of {date} cannot be read", "无法读取{date}的日历"),
            None,
            ("date", ("And on {date}?\nWhat about {date}?", "那{date}呢？\n{date}有什么？")),
        ),
        Skill(
            "delete_event removeEvent event_cancel",
            ("Delete an event from the calendar by its id", "按编号删除日历中的日程"),
            ("delete events from your calendar", "删除日历中的日程"),
            (
                Param(
                    "event_id event id",
                    "string",
                    ("Event id like EV1234", "日程编号，如EV1234"),
                    lambda d: d.code("EV####"),
                ),
            ),
            lambda d, a: {"deleted": d.topic()},
            (
                """Delete event {event_id}.
                Remove {event_id}
                Event {event_id} was called off, take it out of my calendar.
                Could you cancel {event_id} for me?
                Good news, I no longer have to attend {event_id}. Please delete it.
                I don't need the entry {event_id} any more.""",
                """删除日程{event_id}。
                删{event_id}
                {event_id}取消了，从日历里去掉吧。
                能帮我取消{event_id}吗？
                太好了，{event_id}不用参加了，请删掉。
                我不需要{event_id}这条日程了。""",
            ),
            (
                """I deleted "{deleted}" ({event_id}) from your calendar.
                Event {event_id}, "{deleted}", is gone.
                "{deleted}" has been removed.""",
                """已从日历中删除“{deleted}”（{event_id}）。
                日程{event_id}“{deleted}”已删除。
                “{deleted}”已经去掉了。""",
            ),
            ("event {event_id} does not exist", "日程{event_id}不存在"),
            ("Deleted: {deleted}", "已删除：{deleted}"),
            ("event_id", ("And {event_id} too.\nAlso delete {event_id}.", "{event_id}也删掉。\n还有{event_id}。")),
        ),
        Skill(
            "find_free_slot freeTime gap_finder",
            ("Find a free time on a date for some minutes", "查找某天可用的空闲时段"),
            ("find a free slot in your calendar", "查找日历中的空闲时间"),
            (
                _DATE,
                Param(
                    "minutes duration length_min",
                    "integer",
                    ("Minutes needed", "所需分钟数"),
                    lambda d: d.whole(10, 180),
                ),
            ),
            lambda d, a: {"free_from": d.clock()},
            (
                """When am I free for {minutes} minutes on {date}?
                Free slot {date}, {minutes} minutes
                I need {minutes} minutes for myself on {date}. When?
                Could you find a gap of {minutes} minutes on {date}?
                So much to do! Is there any time left on {date} for {minutes} minutes?
                Find {minutes} free minutes on {date}.""",
                """我{date}什么时候有{minutes}分钟空闲？
                {date}空闲{minutes}分钟
                {date}我想留{minutes}分钟给自己，几点合适？
                能在{date}找出{minutes}分钟的空档吗？
                事情好多！{date}还有{minutes}分钟空闲吗？
                找一下{date}的{minutes}分钟空闲时间。""",
            ),
            (
                """On {date} you are free for {minutes} minutes from {free_from}.
                There is a gap at {free_from} on {date}.
                You could use the time from {free_from}.""",
                """{date} {free_from}起您有{minutes}分钟空闲。
                {date}的空档在{free_from}。
                您可以用{free_from}开始的时间。""",
            ),
            ("no free slot of {minutes} minutes on {date}", "{date}没有{minutes}分钟的空档"),
            ("Free from {free_from}", "{free_from}起有空"),
            ("date", ("And on {date}?\nHow about {date}?", "那{date}呢？\n{date}什么时候有空？")),
        ),
    ),
    (
        Chain(
            "find_free_slot",
            "create_event",
            "free_from",
            "time",
            (
                """Find {minutes} free minutes on {date} and put "{title}" there.
                When do I have {minutes} minutes on {date}? Schedule "{title}" for then.
                I need "{title}" on {date}. It takes {minutes} minutes, use a free slot.
                Look for a gap of {minutes} minutes on {date} and add "{title}" at that time, please.""",
                """在{date}找{minutes}分钟空档，安排“{title}”。
                我{date}哪里有{minutes}分钟空？就在那时安排“{title}”。
                {date}要安排“{title}”，需要{minutes}分钟，找个空闲时间加上。
                请查{date}的{minutes}分钟空档，并把“{title}”加进去。""",
            ),
        ),
    ),
)

_SENDER = Param("sender from_person author", "string", ("Who wrote it", "发件人"), lambda d: d.person())

MAIL = Family(
    "mail",
    ("a mail assistant\nan inbox helper\na correspondence secretary", "邮件助手\n收件箱管家\n文书秘书"),
    ("reads and writes mail for the user\nkeeps the inbox tidy", "替用户收发邮件\n让收件箱井井有条"),
    (
        Skill(
            "send_mail sendEmail mail_out compose_message",
            ("Send a mail to an address", "向某个邮箱地址发送邮件"),
            ("send mail", "发送邮件"),
            (
                Param("to recipient address", "string", ("Mail address", "收件邮箱"), lambda d: d.email()),
                Param("subject title", "string", ("Subject line", "邮件主题"), lambda d: d.topic()),
                Param(
                    "body text content",
                    "string",
                    ("Text of the mail", "邮件正文"),
                    lambda d: d.of("message"),
                    ('The text is "{body}".\nWrite "{body}" in it.', "正文写“{body}”。\n内容是“{body}”。"),
                ),
            ),
            lambda d, a: {"message_id": d.code("M-#####")},
            (
                """Send a mail to {to} with the subject "{subject}".
                Mail {to}, subject "{subject}"
                Please write to {to}; the subject is "{subject}".
                Could you email {to} about "{subject}"? Use that as the subject.
                I'm on the train, so please mail {to} for me, subject "{subject}".
                Use the subject "{subject}" and send an email to {to}.""",
                """给{to}发邮件，主题是“{subject}”。
                发邮件到{to}，主题“{subject}”
                请写信给{to}，标题为“{subject}”。
                能帮我给{to}发一封主题为“{subject}”的邮件吗？
                我在火车上，请替我给{to}发邮件，主题“{subject}”。
                用“{subject}”作主题，发一封邮件给{to}。""",
            ),
            (
                """Your mail "{subject}" was sent to {to} (id {message_id}).
                I sent "{subject}" to {to}; the message id is {message_id}.
                Sent to {to} as message {message_id}.""",
                """邮件“{subject}”已发送到{to}，编号{message_id}。
                已向{to}发送“{subject}”，邮件编号{message_id}。
                已发给{to}，编号为{message_id}。""",
            ),
            ("address {to} rejected the mail", "{to}拒收邮件"),
            ("Sent, message {message_id}", "已发送，邮件{message_id}"),
            ("to", ("Send the same to {to}.\nAnd to {to} as well.", "同样发给{to}。\n也给{to}发一份。")),
        ),
        Skill(
            "find_contact lookupContact address_book",
            ("Look up a person's mail address in the contacts", "在通讯录中查找某人的邮箱地址"),
            ("look up contacts", "查找联系人"),
            (Param("name person who", "string", ("Full name", "姓名"), lambda d: d.person()),),
            lambda d, a: {"email": d.email()},
            (
                """What is the mail address of {name}?
                Email of {name}
                Do I have {name} in my contacts?
                How can I reach {name} by mail?
                I met {name} last week, could you look up the address?
                Please find {name} in the address book.""",
                """{name}的邮箱是多少？
                {name}邮箱
                我的通讯录里有{name}吗？
                怎么给{name}发邮件，地址是什么？
                上周见到了{name}，能查一下邮箱地址吗？
                请在通讯录里找{name}。""",
            ),
            (
                """The mail address of {name} is {email}.
                You can reach {name} at {email}.
                {name} is in your contacts: {email}.""",
                """{name}的邮箱是{email}。
                可以通过{email}联系{name}。
                通讯录里{name}的地址是{email}。""",
            ),
            ("no contact named {name}", "没有名为{name}的联系人"),
            ("{name} <{email}>", "{name} <{email}>"),
            ("name", ("And {name}?\nWhat about {name}?", "那{name}呢？\n{name}的呢？")),
        ),
        Skill(
            "search_mail mailSearch inbox_find",
            ("Search the inbox for mail of a sender", "在收件箱中搜索某人的邮件"),
            ("search your inbox", "搜索收件箱"),
            (
                _SENDER,
                switch(
                    "unread unread_only",
                    ("Only unread mail", "只看未读邮件"),
                    ("Only unread ones.\nJust the unread mail, please.", "只看未读的。\n只要未读邮件。"),
                ),
            ),
            lambda d, a: {"found": d.whole(2, 40), "latest": d.topic()},
            (
                """Is there any mail from {sender}?
                Mail from {sender}
                Did {sender} write to me?
                Could you look for messages by {sender}?
                I have been away for a week. What did {sender} send?
                Search my inbox for {sender}.""",
                """有{sender}的邮件吗？
                {sender}的邮件
                {sender}给我写信了吗？
                能找找{sender}发来的邮件吗？
                我出门一周了，{sender}发了什么？
                在收件箱里搜{sender}。""",
            ),
            (
                """There are {found} mails from {sender}; the latest is "{latest}".
                I found {found} messages by {sender}, the newest about "{latest}".
                {sender} sent {found} mails, most recently "{latest}".""",
                """{sender}有{found}封邮件，最新一封是“{latest}”。
                找到{sender}的{found}封邮件，最近的是“{latest}”。
                {sender}共发来{found}封，最新主题“{latest}”。""",
            ),
            ("no mail from {sender}", "没有{sender}的邮件"),
            None,
            ("sender", ("And from {sender}?\nAnything by {sender}?", "那{sender}呢？\n{sender}的有吗？")),
        ),
        Skill(
            "unread_count newMailCount inbox_status",
            ("Count the unread mail in the inbox", "统计收件箱中的未读邮件"),
            ("count your unread mail", "统计未读邮件"),
            (),
            lambda d, a: {"unread": d.whole(10, 300), "urgent": d.whole(2, 9)},
            (
                """How many unread mails do I have?
                Unread mail?
                Do I have new mail?
                Could you check my inbox for unread messages?
                I was on holiday, how full is my inbox with unread mail?
                Count my unread mail, please.
                Any new messages waiting for me?
                Tell me how many mails I haven't read yet.""",
                """我有多少未读邮件？
                未读邮件数
                有新邮件吗？
                能看看收件箱有几封未读吗？
                我刚休假回来，积了多少未读邮件？
                请统计一下未读邮件。
                有没有新消息等着我？
                告诉我还有多少邮件没读。""",
            ),
            (
                """You have {unread} unread mails, {urgent} of them urgent.
                There are {unread} unread messages and {urgent} are marked urgent.
                {unread} mails are unread; {urgent} of these are urgent.""",
                """您有{unread}封未读邮件，其中{urgent}封紧急。
                未读邮件{unread}封，紧急的有{urgent}封。
                还有{unread}封没读，{urgent}封标为紧急。""",
            ),
            ("mail server not reachable", "无法连接邮件服务器"),
            ("{unread} unread, {urgent} urgent", "{unread}封未读，{urgent}封紧急"),
        ),
    ),
    (
        Chain(
            "find_contact",
            "send_mail",
            "email",
            "to",
            (
                """Send {name} a mail with the subject "{subject}".
                Look up {name} and send a mail, subject "{subject}".
                I don't know the address of {name}, but please email them; the subject is "{subject}".
                {name} should get a mail from me. Subject: "{subject}".""",
                """给{name}发一封主题为“{subject}”的邮件。
                查一下{name}的邮箱并发邮件，主题“{subject}”。
                我不知道{name}的邮箱，请帮我发邮件给他，主题是“{subject}”。
                要给{name}写封邮件，主题“{subject}”。""",
            ),
        ),
    ),
)

_PRIORITY = choice(
    "priority urgency level",
    ("How urgent it is", "紧急程度"),
    (("low", "低"), ("medium", "中"), ("high", "高")),
    ("The priority is {priority}.\nSet it to {priority} priority.", "优先级为{priority}。\n优先级设为{priority}。"),
)
_TICKET = Param("ticket ticket_id case_no", "string", ("Ticket number", "工单号"), lambda d: d.code("T-####"))

TICKETS = Family(
    "tickets",
    ("an IT help desk assistant\na support agent\na ticket desk helper", "IT服务台助手\n技术支持\n工单管理员"),
    ("takes care of technical trouble\nhandles support tickets for colleagues", "处理技术故障\n为同事处理工单"),
    (
        Skill(
            "create_ticket openCase report_issue",
            ("Open a support ticket for a problem", "为某个问题创建工单"),
            ("open support tickets", "创建工单"),
            (
                Param("problem issue summary", "string", ("What is wrong", "问题描述"), lambda d: d.of("problem")),
                _PRIORITY,
            ),
            lambda d, a: {"ticket": d.code("T-####")},
            (
                """Open a ticket: "{problem}".
                New ticket "{problem}"
                I'd like to report this: "{problem}".
                Could you file a ticket saying "{problem}"?
                This is driving me mad: "{problem}". Please create a ticket.
                Please log the problem "{problem}" with support.""",
                """开个工单：“{problem}”。
                新工单“{problem}”
                我要报修：“{problem}”。
                能建一个“{problem}”的工单吗？
                快急死我了：“{problem}”，请创建工单。
                请把问题“{problem}”提交给技术支持。""",
            ),
            (
                """I opened ticket {ticket} for "{problem}".
                Your ticket number is {ticket}.
                The problem is filed as {ticket}; support will look at it.""",
                """已为“{problem}”创建工单{ticket}。
                您的工单号是{ticket}。
                问题已登记为{ticket}，技术支持会处理。""",
            ),
            ("the ticket queue is closed", "工单队列已关闭"),
            ("Created {ticket}", "已创建{ticket}"),
            (
                "problem",
                (
                    'And one more: "{problem}".\nAlso report "{problem}".',
                    "再来一个：“{problem}”。\n还要报“{problem}”。",
                ),
            ),
        ),
        Skill(
            "ticket_status caseState check_ticket",
            ("Tell the state of a support ticket", "查询工单的处理状态"),
            ("check the state of a ticket", "查询工单状态"),
            (_TICKET,),
            lambda d, a: {
                "state": d.pick(
                    ("waiting", "等待中"), ("in progress", "处理中"), ("solved", "已解决"), ("on hold", "已挂起")
                ),
                "owner": d.person(),
            },
            (
                """What is the state of ticket {ticket}?
                Status {ticket}
                Is anyone working on {ticket}?
                Has {ticket} been solved yet?
                I've been waiting since Monday, how is {ticket} going?
                Please check my ticket {ticket}.""",
                """工单{ticket}什么状态？
                {ticket}状态
                有人在处理{ticket}吗？
                {ticket}解决了吗？
                我从周一等到现在，{ticket}进展如何？
                请查一下我的工单{ticket}。""",
            ),
            (
                """Ticket {ticket} is {state} and belongs to {owner}.
                {owner} is in charge of {ticket}; it is {state}.
                The state of {ticket} is {state}, handled by {owner}.""",
                """工单{ticket}{state}，负责人是{owner}。
                {ticket}由{owner}负责，目前{state}。
                {ticket}的状态为{state}，处理人{owner}。""",
            ),
            ("ticket {ticket} not found", "找不到工单{ticket}"),
            ("{ticket}: {state}, owner {owner}", "{ticket}：{state}，负责人{owner}"),
            ("ticket", ("And {ticket}?\nWhat about ticket {ticket}?", "那{ticket}呢？\n{ticket}怎么样了？")),
        ),
        Skill(
            "search_tickets caseSearch ticket_lookup",
            ("Find the latest open ticket about a keyword", "按关键词查找最近的未关闭工单"),
            ("search open tickets", "搜索未关闭的工单"),
            (Param("keyword term query", "string", ("Word to search for", "搜索关键词"), lambda d: d.of("fault")),),
            lambda d, a: {"ticket": d.code("T-####"), "opened": d.date()},
            (
                """Is there an open ticket about the {keyword}?
                Ticket {keyword}
                Find the latest ticket that mentions the {keyword}.
                Did somebody already report the {keyword}?
                Half the office complains, so is there a ticket on the {keyword}?
                Could you search the tickets for "{keyword}"?""",
                """有关于{keyword}的工单吗？
                {keyword}工单
                找一下最近提到{keyword}的工单。
                有人报过{keyword}的问题吗？
                半个办公室都在抱怨，有{keyword}的工单吗？
                能在工单里搜“{keyword}”吗？""",
            ),
            (
                """The latest ticket about the {keyword} is {ticket}, opened on {opened}.
                Yes, {ticket} from {opened} is about the {keyword}.
                I found ticket {ticket}, opened on {opened}.""",
                """关于{keyword}的最新工单是{ticket}，创建于{opened}。
                有的，{opened}的{ticket}与{keyword}有关。
                找到工单{ticket}，{opened}创建。""",
            ),
            ("no open ticket about {keyword}", "没有关于{keyword}的未关闭工单"),
            None,
            (
                "keyword",
                ("And the {keyword}?\nAny ticket about the {keyword}?", "那{keyword}呢？\n有{keyword}的工单吗？"),
            ),
        ),
        Skill(
            "assign_ticket giveCase set_owner",
            ("Assign a support ticket to a colleague", "把工单分配给某位同事"),
            ("assign tickets to colleagues", "分配工单"),
            (
                Param("ticket ticket_no case", "string", ("Ticket number", "工单号"), lambda d: d.code("T-####")),
                Param("assignee colleague owner", "string", ("Who takes it over", "接手人"), lambda d: d.person()),
            ),
            lambda d, a: {"due": d.date()},
            (
                """Assign ticket {ticket} to {assignee}.
                {ticket} to {assignee}
                {assignee} will take care of {ticket}, please assign it.
                Could you hand {ticket} over to {assignee}?
                I'm off sick from tomorrow, so give {ticket} to {assignee}.
                Let {assignee} be the owner of {ticket}.""",
                """把工单{ticket}分配给{assignee}。
                {ticket}转给{assignee}
                {assignee}来处理{ticket}，请分配一下。
                能把{ticket}转交给{assignee}吗？
                我明天起病假，把{ticket}交给{assignee}吧。
                让{assignee}负责{ticket}。""",
            ),
            (
                """{assignee} now owns {ticket}, due on {due}.
                Ticket {ticket} is assigned to {assignee} and due on {due}.
                Done: {assignee} takes {ticket} until {due}.""",
                """{ticket}现在由{assignee}负责，截止{due}。
                工单{ticket}已分配给{assignee}，期限{due}。
                好了，{assignee}接手{ticket}，{due}前完成。""",
            ),
            ("{assignee} cannot take tickets", "{assignee}无法接收工单"),
            ("{ticket} -> {assignee}, due {due}", "{ticket}已转给{assignee}，截止{due}"),
            (
                "ticket",
                (
                    "Give {ticket} to the same person.\n{ticket} too, same owner.",
                    "{ticket}也给同一个人。\n还有{ticket}，同一负责人。",
                ),
            ),
        ),
    ),
    (
        Chain(
            "search_tickets",
            "assign_ticket",
            "ticket",
            "ticket",
            (
                """Find the open ticket about the {keyword} and assign it to {assignee}.
                {assignee} should take the latest ticket on the {keyword}. Please look it up and assign it.
                Search for a ticket about the {keyword}, then hand it to {assignee}.
                Whichever ticket is open for the {keyword}, make {assignee} its owner.""",
                """找到关于{keyword}的工单并分配给{assignee}。
                最近那个{keyword}的工单让{assignee}处理，查一下再分配。
                搜索{keyword}的工单，然后转给{assignee}。
                {keyword}的未关闭工单，负责人改成{assignee}。""",
            ),
        ),
    ),
)

_EMPLOYEE = Param("employee_id staff_no worker", "string", ("Employee number", "员工编号"), lambda d: d.code("E####"))
_LEAVE_DAYS = Param("days day_count", "integer", ("Number of days", "天数"), lambda d: d.whole(2, 9))

STAFF = Family(
    "staff",
    ("a human resources assistant\nan HR desk helper\na staff service agent", "人事助手\nHR服务台\n员工服务专员"),
    (
        "answers the personnel questions of employees\nhelps with leave and pay",
        "解答员工的人事问题\n协助处理请假和薪资",
    ),
    (
        Skill(
            "find_employee staffSearch person_lookup",
            ("Find the employee number of a colleague", "查找同事的员工编号"),
            ("find the number of an employee", "查找员工编号"),
            (Param("name full_name", "string", ("Full name", "姓名"), lambda d: d.person()),),
            lambda d, a: {"employee_id": d.code("E####"), "desk": d.code("@-##")},
            (
                """What is the employee number of {name}?
                Employee {name}
                Where does {name} sit and what is the staff number?
                Could you find {name} in the staff list?
                I have a parcel for {name}, at which desk is that?
                Look up our colleague {name}.""",
                """{name}的员工编号是多少？
                员工{name}
                {name}坐哪儿，工号是什么？
                能在员工名单里找一下{name}吗？
                我这有{name}的包裹，工位在哪里？
                查一下同事{name}。""",
            ),
            (
                """{name} has number {employee_id} and sits at desk {desk}.
                The employee number of {name} is {employee_id}, desk {desk}.
                You find {name} ({employee_id}) at desk {desk}.""",
                """{name}的工号是{employee_id}，工位{desk}。
                {name}员工编号{employee_id}，坐在{desk}。
                {name}（{employee_id}）在{desk}工位。""",
            ),
            ("nobody called {name} works here", "没有叫{name}的员工"),
            None,
            ("name", ("And {name}?\nWhat about {name}?", "那{name}呢？\n{name}的呢？")),
        ),
        Skill(
            "leave_balance vacationLeft days_off_left",
            ("Tell how many days of leave an employee has", "查询员工剩余的假期天数"),
            ("check the days of leave left", "查询剩余假期"),
            (_EMPLOYEE,),
            lambda d, a: {"annual": d.real(1, 29, 1), "sick_taken": d.whole(2, 14)},
            (
                """How many days of leave does {employee_id} have?
                Leave of {employee_id}
                My staff number is {employee_id}. How much vacation do I have left?
                Could you check the leave balance for {employee_id}?
                I want to see the sea again! I'm {employee_id}, are there days off left?
                Please tell me the remaining vacation of employee {employee_id}.""",
                """{employee_id}还有多少天假？
                {employee_id}假期余额
                我的工号是{employee_id}，还剩多少年假？
                能查一下{employee_id}的假期余额吗？
                好想去看海！我是{employee_id}，还有假吗？
                请告诉我员工{employee_id}的剩余年假。""",
            ),
            (
                """{employee_id} has {annual} days of leave left and took {sick_taken} sick days.
                There are {annual} days of leave left for {employee_id}.
                The balance of {employee_id} is {annual} days; {sick_taken} sick days were taken.""",
                """{employee_id}还剩{annual}天年假，已休病假{sick_taken}天。
                {employee_id}的年假余额为{annual}天。
                {employee_id}剩余年假{annual}天，病假用了{sick_taken}天。""",
            ),
            ("employee {employee_id} not found", "找不到员工{employee_id}"),
            None,
            (
                "employee_id",
                ("And {employee_id}?\nWhat about {employee_id}?", "那{employee_id}呢？\n{employee_id}还有几天？"),
            ),
        ),
        Skill(
            "request_leave applyVacation book_days_off",
            ("File a request for leave from a date on", "从某日起提交请假申请"),
            ("request leave", "申请休假"),
            (
                Param("employee_id staff_id", "string", ("Employee number", "员工编号"), lambda d: d.code("E####")),
                Param("start first_day", "string", ("First day, YYYY-MM-DD", "首日，YYYY-MM-DD"), lambda d: d.date()),
                _LEAVE_DAYS,
                switch(
                    "unpaid without_pay",
                    ("Whether the leave is unpaid", "是否为无薪假"),
                    ("It may be unpaid leave.\nMake it unpaid.", "按无薪假处理。\n无薪也可以，请按无薪申请。"),
                ),
            ),
            lambda d, a: {"request": d.code("L-####"), "approver": d.person()},
            (
                """Request {days} days of leave for {employee_id} from {start}.
                {employee_id}, leave from {start}, {days} days
                I'm {employee_id} and want {days} days off starting on {start}.
                Could you file leave for {employee_id}? It starts on {start} and lasts {days} days.
                My daughter gets married! {days} days off from {start}, number {employee_id}, please.
                Starting {start}, employee {employee_id} needs {days} days of vacation.""",
                """为{employee_id}申请从{start}起{days}天假。
                {employee_id}，{start}起请假{days}天
                我是{employee_id}，想从{start}开始休{days}天。
                能为{employee_id}提交请假吗？{start}开始，共{days}天。
                女儿要结婚了！工号{employee_id}，{start}起请{days}天假。
                员工{employee_id}从{start}起需要休假{days}天。""",
            ),
            (
                """Request {request} is filed; {approver} has to approve it.
                I filed {days} days from {start} as {request}, to be approved by {approver}.
                Your leave request {request} was sent to {approver}.""",
                """申请{request}已提交，由{approver}审批。
                {start}起{days}天的假已提交，编号{request}，审批人{approver}。
                请假申请{request}已发给{approver}。""",
            ),
            ("{employee_id} has not enough leave left", "{employee_id}的假期余额不足"),
            ("Filed {request}, approver {approver}", "已提交{request}，审批人{approver}"),
        ),
        Skill(
            "get_payslip salarySlip pay_statement",
            ("Get an employee's net pay of a month", "查询员工某月的实发工资"),
            ("look up a payslip", "查询工资单"),
            (
                Param("employee employee_no", "string", ("Employee number", "员工编号"), lambda d: d.code("E####")),
                Param("month period", "string", ("Month, YYYY-MM", "月份，YYYY-MM"), lambda d: d.date()[:7]),
            ),
            lambda d, a: {"net_pay": d.real(1500, 7900), "tax": d.real(100, 1900)},
            (
                """What was the pay of {employee} in {month}?
                Payslip {employee} {month}
                I'm employee {employee} and need my payslip for {month}.
                How much did {employee} earn in {month} after tax?
                The bank asks for it: net pay of {employee} for {month}, please.
                Could you get the {month} payslip of {employee}?""",
                """{employee}在{month}的工资是多少？
                {employee}工资单{month}
                我是员工{employee}，需要{month}的工资单。
                {employee}在{month}税后拿了多少？
                银行要材料，请查{employee}在{month}的实发工资。
                能取一下{employee}的{month}工资单吗？""",
            ),
            (
                """In {month} the net pay of {employee} was {net_pay}, with {tax} tax.
                {employee} received {net_pay} for {month}; the tax was {tax}.
                The payslip for {month} shows {net_pay} net and {tax} tax.""",
                """{employee}在{month}实发{net_pay}元，缴税{tax}元。
                {month} {employee}到手{net_pay}元，个税{tax}元。
                {month}工资单：实发{net_pay}元，税{tax}元。""",
            ),
            ("no payslip of {employee} for {month}", "没有{employee}在{month}的工资单"),
            None,
            ("month", ("And for {month}?\nWhat about {month}?", "那{month}呢？\n{month}的呢？")),
        ),
    ),
    (
        Chain(
            "find_employee",
            "leave_balance",
            "employee_id",
            "employee_id",
            (
                """How many days of leave does {name} have left?
                Look up {name} and tell me the leave balance.
                I don't remember the staff number of {name}, but how much vacation is left there?
                {name} wants to know the remaining days of leave.""",
                """{name}还剩多少天假？
                查一下{name}，告诉我假期余额。
                我不记得{name}的工号了，但想知道还剩多少年假。
                {name}想知道自己还有几天假。""",
            ),
        ),
    ),
)

FAMILIES = (CALENDAR, MAIL, TICKETS, STAFF)

"""Synthetic tools for money and goods: orders, banking, stocks, restaurants."""

from __future__ import annotations

from fabrictune.sources.synthetic_spec import Chain, Family, Param, Skill, choice, group, switch

_ORDER = Param(
    "order order_id order_no", "string", ("Order number like A-1234", "订单号，如A-1234"), lambda d: d.code("@-####")
)

ORDERS = Family(
    "orders",
    (
        "a shop assistant\na customer service agent of an online shop\na shopping helper",
        "商城客服\n网店导购\n购物助手",
    ),
    (
        "helps customers with products and orders\nlooks after shoppers",
        "帮助顾客选购商品和处理订单\n为顾客提供购物服务",
    ),
    (
        Skill(
            "order_status trackOrder where_is_order",
            ("Tell where an order is and when it arrives", "查询订单的状态和预计送达日期"),
            ("track orders", "查询订单状态"),
            (_ORDER,),
            lambda d, a: {
                "status": d.pick(
                    ("packed", "已打包"), ("shipped", "已发货"), ("at customs", "清关中"), ("in transit", "运输中")
                ),
                "arrives": d.date(),
            },
            (
                """Where is my order {order}?
                Track {order}
                When will {order} arrive?
                Could you check the status of order {order}?
                It is a birthday gift and I'm nervous: is {order} on its way?
                I'm still waiting for order {order}.""",
                """我的订单{order}到哪儿了？
                查订单{order}
                {order}什么时候到？
                能查一下订单{order}的状态吗？
                这是生日礼物，我有点着急，{order}发出了吗？
                我还在等订单{order}。""",
            ),
            (
                """Order {order} is {status} and should arrive on {arrives}.
                The status of {order} is {status}; expect it on {arrives}.
                {order} will arrive on {arrives}; right now it is {status}.""",
                """订单{order}{status}，预计{arrives}送达。
                {order}目前{status}，{arrives}到货。
                {order}预计{arrives}送到，当前状态：{status}。""",
            ),
            ("order {order} not found", "找不到订单{order}"),
            ("{order}: {status}, arrives {arrives}", "{order}：{status}，{arrives}送达"),
            ("order", ("And {order}?\nWhat about order {order}?", "那{order}呢？\n订单{order}呢？")),
        ),
        Skill(
            "search_product productFinder find_item",
            ("Search the shop for a product", "在商城中搜索商品"),
            ("search products", "搜索商品"),
            (
                Param("keyword item query", "string", ("What to search for", "搜索内容"), lambda d: d.of("product")),
                Param(
                    "max_price price_limit",
                    "integer",
                    ("Highest price", "最高价格"),
                    lambda d: d.whole(20, 300),
                    (
                        "It may cost {max_price} at most.\nNot more than {max_price}.",
                        "最多{max_price}元。\n价格不超过{max_price}。",
                    ),
                ),
                Param(
                    "colors color_list",
                    "array",
                    ("Colors that are fine", "可接受的颜色"),
                    lambda d: d.some("color", 2, 3),
                    ("These colors are fine: {colors}.", "{colors}都可以。"),
                ),
            ),
            lambda d, a: {
                "sku": d.code("@@-###"),
                "brand": d.of("brand"),
                "price": d.whole(9, a.get("max_price", 280)),
            },
            (
                """Do you sell a {keyword}?
                Shop search: {keyword}
                I'm looking for a new {keyword}.
                Could you find me a {keyword}?
                My old one broke yesterday, so I need this: {keyword}.
                Show me something under "{keyword}" in the shop.""",
                """你们卖{keyword}吗？
                商城搜索{keyword}
                我想买一个新的{keyword}。
                能帮我找找{keyword}吗？
                旧的昨天坏了，我要买{keyword}。
                在商城里搜一下“{keyword}”。""",
            ),
            (
                """We have a {brand} {keyword} for {price}, item {sku}.
                Item {sku} by {brand} fits: it costs {price}.
                How about the {keyword} {sku} from {brand} at {price}?""",
                """有{brand}的{keyword}，{price}元，货号{sku}。
                货号{sku}，品牌{brand}，售价{price}元。
                推荐{brand}{keyword}（{sku}），{price}元。""",
            ),
            ("no product matches {keyword}", "没有与{keyword}匹配的商品"),
            None,
            ("keyword", ("And a {keyword}?\nDo you have a {keyword} too?", "那{keyword}呢？\n有{keyword}吗？")),
        ),
        Skill(
            "add_to_cart cartAdd put_in_basket",
            ("Put an item into the shopping cart", "把商品加入购物车"),
            ("put items into the cart", "把商品加入购物车"),
            (
                Param(
                    "sku item_no article",
                    "string",
                    ("Item number like AB-123", "货号，如AB-123"),
                    lambda d: d.code("@@-###"),
                ),
                Param("quantity amount pieces", "integer", ("How many", "数量"), lambda d: d.whole(2, 9)),
                switch(
                    "gift_wrap wrapped",
                    ("Whether to gift-wrap it", "是否礼品包装"),
                    ("Gift-wrap it, please.\nI want gift wrapping.", "请用礼品包装。\n要礼盒包装。"),
                ),
            ),
            lambda d, a: {"items": d.whole(10, 30), "ships_on": d.date()},
            (
                """Put {quantity} pieces of {sku} into my cart.
                {sku}, {quantity} pieces, into the cart
                I'll take {quantity} of item {sku}.
                Could you add {sku} to the basket? I need {quantity} of them.
                The kids will love it, add {quantity} units of {sku}.
                Please add item {sku} to my cart, quantity {quantity}.""",
                """把{quantity}件{sku}加入购物车。
                {sku}，{quantity}件，加购物车
                我要{quantity}件{sku}。
                能把{sku}放进购物车吗？要{quantity}件。
                孩子们会喜欢的，加{quantity}件{sku}。
                请把货号{sku}加入购物车，数量{quantity}件。""",
            ),
            (
                """I added {sku}; your cart now holds {items} items.
                Done, {quantity} of {sku} are in the cart and can ship on {ships_on}.
                The cart now holds {items} items, ready to ship on {ships_on}.""",
                """已加入{sku}，购物车现有{items}件商品。
                好了，{quantity}件{sku}已在购物车，{ships_on}可发货。
                购物车现有{items}件商品，{ships_on}可发货。""",
            ),
            ("item {sku} is out of stock", "{sku}缺货"),
            ("Added {sku}. Cart: {items} items, ships on {ships_on}", "已加入{sku}。购物车：{items}件，{ships_on}发货"),
            (
                "sku",
                (
                    "And the same number of {sku}.\nAdd {sku} too, same quantity.",
                    "{sku}也要同样数量。\n再加{sku}，数量一样。",
                ),
            ),
        ),
        Skill(
            "return_order refundRequest send_back",
            ("Start the return of an order", "发起订单退货"),
            ("start a return", "办理退货"),
            (
                Param("order order_number", "string", ("Order number", "订单号"), lambda d: d.code("@-####")),
                choice(
                    "reason cause",
                    ("Why it goes back", "退货原因"),
                    (("damaged", "损坏"), ("wrong size", "尺码不对"), ("late", "送达太晚")),
                ),
            ),
            lambda d, a: {"return_code": d.code("RT####"), "refund": d.real(5, 400)},
            (
                """I want to return order {order}. Reason: {reason}.
                Return {order}, {reason}
                Order {order} has to go back, the reason is "{reason}".
                Could you start a return for {order}? Put "{reason}" as the reason.
                What a pity! {order} must be returned: {reason}.
                Please take back {order}; give {reason} as the cause.""",
                """我要退订单{order}，原因：{reason}。
                退货{order}，{reason}
                订单{order}要退，理由是{reason}。
                能为{order}办理退货吗？原因填{reason}。
                真可惜！{order}得退掉：{reason}。
                请退回{order}，原因写{reason}。""",
            ),
            (
                """The return of {order} has code {return_code}; you get back {refund}.
                Return {return_code} is open and {refund} will be refunded.
                Use code {return_code} to send back {order}; the refund is {refund}.""",
                """{order}的退货码是{return_code}，将退款{refund}元。
                退货{return_code}已创建，退款{refund}元。
                请用{return_code}寄回{order}，可退{refund}元。""",
            ),
            ("order {order} can no longer be returned", "订单{order}已过退货期"),
            None,
        ),
        Skill(
            "shipping_quote deliveryCost freight_price",
            ("Quote the shipping cost of a weight to an address", "按重量和地址估算运费"),
            ("quote shipping costs", "估算运费"),
            (
                Param("weight kilos", "number", ("Weight in kg", "重量（公斤）"), lambda d: d.real(0.3, 29, 1)),
                group(
                    "ship_to dest",
                    ("Object with city and zip", "对象，含city和zip"),
                    (
                        Param("city", "string", ("City", "城市"), lambda d: d.of("city")),
                        Param("zip", "string", ("Postal code", "邮编"), lambda d: d.code("######")),
                    ),
                ),
            ),
            lambda d, a: {"cost": d.real(4, 60), "days": d.whole(2, 12)},
            (
                """What does it cost to ship {weight} kg to {ship_to_city}, zip {ship_to_zip}?
                Ship {weight} kg to {ship_to_city} {ship_to_zip}
                I want to send {weight} kg to {ship_to_city} (postal code {ship_to_zip}). How much is that?
                Could you quote shipping to {ship_to_zip} {ship_to_city} for {weight} kg?
                Grandma lives in {ship_to_city}, {ship_to_zip}. What would a parcel of {weight} kg cost?
                Shipping price for {weight} kg to {ship_to_city}, {ship_to_zip}, please.""",
                """寄{weight}公斤到{ship_to_city}，邮编{ship_to_zip}，多少钱？
                {weight}公斤寄{ship_to_city} {ship_to_zip}
                我想寄{weight}公斤到{ship_to_city}（邮编{ship_to_zip}），运费是多少？
                能估一下寄到{ship_to_city}{ship_to_zip}的{weight}公斤包裹的运费吗？
                奶奶住在{ship_to_city}，邮编{ship_to_zip}，寄{weight}公斤要多少？
                请报一下{weight}公斤到{ship_to_city}的运费，邮编{ship_to_zip}。""",
            ),
            (
                """Shipping {weight} kg to {ship_to_city} costs {cost} and takes {days} days.
                It costs {cost}; the parcel needs {days} days.
                The price is {cost} with delivery in {days} days.""",
                """寄{weight}公斤到{ship_to_city}运费{cost}元，{days}天送达。
                运费{cost}元，需要{days}天。
                价格为{cost}元，{days}天到。""",
            ),
            ("no delivery to zip {ship_to_zip}", "邮编{ship_to_zip}无法配送"),
            ("{cost}, {days} days", "{cost}元，{days}天"),
            (
                "weight",
                ("And for {weight} kg?\nWhat if it weighs {weight} kg?", "{weight}公斤呢？\n如果是{weight}公斤呢？"),
            ),
        ),
    ),
    (
        Chain(
            "search_product",
            "add_to_cart",
            "sku",
            "sku",
            (
                """Find a {keyword} and put {quantity} of it into my cart.
                I need {quantity} pieces of something: {keyword}. Search it and add it to the cart.
                Look for a {keyword}, then add {quantity} to the basket, please.
                Search the shop for "{keyword}" and add {quantity} pieces to my cart.""",
                """找一款{keyword}，加{quantity}件到购物车。
                我要{quantity}件{keyword}，搜到就加入购物车。
                搜一下{keyword}，然后放{quantity}件进购物车。
                在商城找“{keyword}”，加购{quantity}件。""",
            ),
        ),
    ),
)

_CURRENCIES = (("USD", "美元"), ("EUR", "欧元"), ("JPY", "日元"), ("GBP", "英镑"), ("CHF", "瑞士法郎"), ("THB", "泰铢"))
_AMOUNT = Param("amount sum value", "number", ("Amount of money", "金额"), lambda d: d.real(5, 4000))

BANKING = Family(
    "banking",
    ("a bank assistant\na personal banking helper\na teller of an online bank", "银行助手\n个人理财助理\n网上银行柜员"),
    ("takes care of accounts and payments\nhelps clients with their money", "处理账户和转账\n帮助客户管理资金"),
    (
        Skill(
            "account_balance getBalance balance_check",
            ("Tell the balance of a bank account", "查询银行账户余额"),
            ("check account balances", "查询账户余额"),
            (Param("account account_no", "string", ("Account number", "账号"), lambda d: d.code("########")),),
            lambda d, a: {"balance": d.real(20, 40000), "blocked": d.real(5, 400)},
            (
                """How much money is on account {account}?
                Balance {account}
                What is the balance of {account}?
                Could you check my account {account}?
                Rent is due soon, do I have enough on {account}? Tell me the balance.
                Show me what is left on account {account}.""",
                """账户{account}有多少钱？
                {account}余额
                {account}的余额是多少？
                能查一下我的账户{account}吗？
                快交房租了，{account}里还有多少余额？
                看看账户{account}还剩多少。""",
            ),
            (
                """Account {account} holds {balance}, of which {blocked} is blocked.
                The balance of {account} is {balance}.
                There is {balance} on {account}; {blocked} of it is blocked.""",
                """账户{account}余额{balance}，其中{blocked}被冻结。
                {account}的余额为{balance}。
                {account}上有{balance}，冻结金额{blocked}。""",
            ),
            ("account {account} is locked", "账户{account}已锁定"),
            None,
            ("account", ("And {account}?\nWhat about account {account}?", "那{account}呢？\n账户{account}呢？")),
        ),
        Skill(
            "transfer_money wireTransfer pay_out",
            ("Transfer money to a bank account", "向某个银行账户转账"),
            ("transfer money", "转账"),
            (
                Param(
                    "iban to_account target_account",
                    "string",
                    ("Receiving account", "收款账号"),
                    lambda d: d.code("@@##-####-####"),
                ),
                _AMOUNT,
                Param(
                    "note reference purpose",
                    "string",
                    ("Note for the payee", "转账附言"),
                    lambda d: d.topic(),
                    ('Add the note "{note}".\nThe reference is "{note}".', "附言写“{note}”。\n备注“{note}”。"),
                ),
            ),
            lambda d, a: {"transaction": d.code("TX-#####"), "fee": d.real(0.1, 4)},
            (
                """Transfer {amount} to {iban}.
                Pay {amount} to {iban}
                I owe {amount} to the owner of {iban}, please pay it.
                Could you send {amount} to account {iban}?
                Before I forget it again: {amount} has to go to {iban}.
                Please pay {amount} into {iban}.""",
                """转{amount}到{iban}。
                向{iban}转{amount}
                我欠{iban}的户主{amount}，请付款。
                能给账户{iban}转{amount}吗？
                趁我还记得，请转{amount}到{iban}。
                请向{iban}支付{amount}。""",
            ),
            (
                """{amount} was sent to {iban}; the transaction is {transaction}, the fee {fee}.
                Transfer {transaction} of {amount} is done, with a fee of {fee}.
                Done: {transaction}, {amount} to {iban}.""",
                """已向{iban}转账{amount}，流水号{transaction}，手续费{fee}。
                转账{transaction}已完成，金额{amount}，手续费{fee}。
                完成：{transaction}，{amount}转到{iban}。""",
            ),
            ("not enough money to send {amount}", "余额不足，无法转出{amount}"),
            ("Transaction {transaction}, fee {fee}", "流水号{transaction}，手续费{fee}"),
            (
                "amount",
                (
                    "Send another {amount} there.\nAnd {amount} more to the same account.",
                    "再转{amount}过去。\n同一账户再转{amount}。",
                ),
            ),
        ),
        Skill(
            "find_payee payeeLookup receiver_search",
            ("Look up the account number of a known payee", "查找已登记收款人的账号"),
            ("look up payees", "查找收款人"),
            (Param("payee payee_name receiver", "string", ("Full name", "姓名"), lambda d: d.person()),),
            lambda d, a: {"iban": d.code("@@##-####-####")},
            (
                """What is the account number of {payee}?
                Payee {payee}
                Do we have the bank details of {payee}?
                Could you look up {payee} among my payees?
                I lost the slip, which account does {payee} have?
                Find the account of {payee}.""",
                """{payee}的账号是多少？
                收款人{payee}
                有{payee}的银行信息吗？
                能在收款人里查一下{payee}吗？
                我把单子弄丢了，{payee}的账户是哪个？
                查找{payee}的账号。""",
            ),
            (
                """The account of {payee} is {iban}.
                {payee} has account {iban}.
                I found {payee}: {iban}.""",
                """{payee}的账号是{iban}。
                {payee}的账户为{iban}。
                查到{payee}：{iban}。""",
            ),
            ("{payee} is not among your payees", "收款人中没有{payee}"),
            ("{payee}: {iban}", "{payee}：{iban}"),
            ("payee", ("And {payee}?\nWhat about {payee}?", "那{payee}呢？\n{payee}的呢？")),
        ),
        Skill(
            "convert_currency fxConvert exchange_money",
            ("Convert an amount from one currency to another", "把金额从一种货币换算成另一种"),
            ("convert currencies", "换算货币"),
            (
                Param("amount quantity", "number", ("Amount to convert", "换算金额"), lambda d: d.real(1, 9000)),
                choice("source from_currency", ("Currency to convert from", "原货币"), _CURRENCIES),
                choice("target to_currency", ("Currency to convert to", "目标货币"), _CURRENCIES),
            ),
            lambda d, a: {"result": round(a["amount"] * (rate := d.real(0.2, 9)), 2), "rate": rate},
            (
                """How much is {amount} {source} in {target}?
                {amount} {source} to {target}
                Convert {amount} {source} into {target}.
                I have {amount} {source} left from my trip, what is that in {target}?
                Could you tell me what {amount} {source} makes in {target}?
                If I change {amount} {source}, how many {target} do I get?""",
                """{amount}{source}等于多少{target}？
                {amount}{source}换{target}
                把{amount}{source}换算成{target}。
                旅行还剩{amount}{source}，折合多少{target}？
                能算一下{amount}{source}合多少{target}吗？
                用{amount}{source}能换多少{target}？""",
            ),
            (
                """{amount} {source} is {result} {target} at a rate of {rate}.
                You get {result} {target} for {amount} {source}.
                At {rate}, {amount} {source} makes {result} {target}.""",
                """{amount}{source}等于{result}{target}，汇率{rate}。
                {amount}{source}可换{result}{target}。
                按汇率{rate}，{amount}{source}合{result}{target}。""",
            ),
            ("no rate from {source} to {target} today", "今日没有{source}兑{target}的汇率"),
            None,
            ("amount", ("And {amount}?\nWhat about {amount}, same currencies?", "那{amount}呢？\n换成{amount}呢？")),
        ),
    ),
    (
        Chain(
            "find_payee",
            "transfer_money",
            "iban",
            "iban",
            (
                """Send {amount} to {payee}.
                Look up the account of {payee} and transfer {amount}.
                I owe {payee} {amount}. Find the account number and pay it, please.
                {payee} should get {amount} from me. You find the account among my payees.""",
                """给{payee}转{amount}。
                查一下{payee}的账号，然后转{amount}。
                我欠{payee}{amount}，找到账号后付款。
                要给{payee}付{amount}，账号在收款人里。""",
            ),
        ),
    ),
)

_SYMBOL = Param("symbol ticker_symbol ticker", "string", ("Stock symbol", "股票代码"), lambda d: d.code("@@@@"))

STOCKS = Family(
    "stocks",
    ("a stock market assistant\nan investment helper\na market data agent", "股市助手\n投资助理\n行情播报员"),
    ("gives investors market data\nwatches stocks for the user", "为投资者提供行情\n为用户关注股票"),
    (
        Skill(
            "stock_quote getQuote share_price",
            ("Get the latest price of a stock by symbol", "按代码查询股票最新价格"),
            ("get stock prices", "查询股价"),
            (_SYMBOL,),
            lambda d, a: {"price": d.real(3, 900), "change_percent": d.real(0.1, 9, 1)},
            (
                """What is the price of {symbol}?
                Quote {symbol}
                How is {symbol} doing?
                Could you tell me where {symbol} trades now?
                I put my savings into {symbol}. What is the share price?
                Please check the stock {symbol}.""",
                """{symbol}股价多少？
                {symbol}报价
                {symbol}现在怎么样？
                能告诉我{symbol}现价吗？
                我的积蓄都买了{symbol}，现在股价是多少？
                请查一下股票{symbol}。""",
            ),
            (
                """{symbol} trades at {price}, up {change_percent} %.
                The price of {symbol} is {price}, a gain of {change_percent} %.
                One share of {symbol} costs {price} (plus {change_percent} %).""",
                """{symbol}现价{price}，上涨{change_percent}%。
                {symbol}的价格为{price}，涨幅{change_percent}%。
                {symbol}每股{price}，涨{change_percent}%。""",
            ),
            ("unknown symbol {symbol}", "未知代码{symbol}"),
            ("{symbol} {price} (+{change_percent} %)", "{symbol} {price}（+{change_percent}%）"),
            ("symbol", ("And {symbol}?\nWhat about {symbol}?", "那{symbol}呢？\n{symbol}呢，多少钱？")),
        ),
        Skill(
            "find_symbol tickerSearch company_to_symbol",
            ("Find the stock symbol of a company", "查找公司的股票代码"),
            ("find stock symbols", "查找股票代码"),
            (
                Param(
                    "company company_name firm", "string", ("Company name", "公司名称"), lambda d: d.business("company")
                ),
            ),
            lambda d, a: {"symbol": d.code("@@@@"), "exchange": d.code("X@@@")},
            (
                """What is the stock symbol of {company}?
                Symbol {company}
                Under which ticker is {company} listed?
                Could you find the symbol for {company}?
                A friend told me to look at {company}, which symbol does it have?
                I need the ticker of {company}.""",
                """{company}的股票代码是什么？
                {company}代码
                {company}以什么代码上市？
                能查一下{company}的代码吗？
                朋友推荐我看看{company}，股票代码是多少？
                我需要{company}的股票代码。""",
            ),
            (
                """{company} is listed as {symbol} on {exchange}.
                The symbol of {company} is {symbol} ({exchange}).
                You find {company} under {symbol}.""",
                """{company}在{exchange}的代码是{symbol}。
                {company}的股票代码为{symbol}（{exchange}）。
                {company}的代码是{symbol}。""",
            ),
            ("{company} is not listed", "{company}未上市"),
            ("{company}: {symbol}, {exchange}", "{company}：{symbol}，{exchange}"),
            ("company", ("And {company}?\nWhat about {company}?", "那{company}呢？\n{company}的呢？")),
        ),
        Skill(
            "price_history stockHistory past_prices",
            ("Show the highest and lowest price of past days", "查询股票过去几天的最高价和最低价"),
            ("show past stock prices", "查询历史股价"),
            (
                Param("symbol stock", "string", ("Stock symbol", "股票代码"), lambda d: d.code("@@@@")),
                Param("days window", "integer", ("How many days back", "过去的天数"), lambda d: d.whole(5, 90)),
            ),
            lambda d, a: {"high": d.real(200, 400), "low": d.real(5, 199)},
            (
                """How did {symbol} do over the last {days} days?
                {symbol}, last {days} days
                What were the high and low of {symbol} in the past {days} days?
                Could you show the {symbol} prices of the last {days} days?
                I was offline a while. What happened to {symbol} in {days} days?
                Please look back {days} days on {symbol}.""",
                """{symbol}过去{days}天表现如何？
                {symbol}近{days}天
                {symbol}最近{days}天的最高和最低价是多少？
                能看看{symbol}过去{days}天的股价吗？
                我好久没看盘了，{symbol}这{days}天怎么样？
                请回看{symbol}最近{days}天的行情。""",
            ),
            (
                """In the last {days} days {symbol} moved between {low} and {high}.
                {symbol} had a high of {high} and a low of {low}.
                The range of {symbol} was {low} to {high}.""",
                """过去{days}天{symbol}在{low}到{high}之间。
                {symbol}最高{high}，最低{low}。
                {symbol}的区间是{low}至{high}。""",
            ),
            ("no history for {symbol}", "没有{symbol}的历史数据"),
            None,
            ("days", ("And over {days} days?\nWhat about the last {days} days?", "那{days}天呢？\n近{days}天呢？")),
        ),
        Skill(
            "price_alert setAlert watch_price",
            ("Set an alert for when a stock passes a price", "设置股票价格提醒"),
            ("set price alerts", "设置股价提醒"),
            (
                Param("symbol stock_symbol", "string", ("Stock symbol", "股票代码"), lambda d: d.code("@@@@")),
                Param(
                    "threshold limit price", "number", ("Price that triggers it", "触发价格"), lambda d: d.real(5, 600)
                ),
                choice(
                    "direction when_price", ("Side of the price", "触发方向"), (("above", "高于"), ("below", "低于"))
                ),
            ),
            lambda d, a: {"alert_id": d.code("AL##"), "expires": d.date()},
            (
                """Tell me when {symbol} is {direction} {threshold}.
                Alert: {symbol} {direction} {threshold}
                I want a warning if {symbol} goes {direction} {threshold}.
                Could you set an alert for {symbol} {direction} {threshold}?
                I can't watch the market all day, so alert me once {symbol} is {direction} {threshold}.
                Notify me as soon as {symbol} trades {direction} {threshold}.""",
                """{symbol}{direction}{threshold}时告诉我。
                提醒：{symbol}{direction}{threshold}
                如果{symbol}{direction}{threshold}，请提醒我。
                能设置一个{symbol}{direction}{threshold}的提醒吗？
                我没法整天盯盘，{symbol}{direction}{threshold}时通知我。
                一旦{symbol}{direction}{threshold}就通知我。""",
            ),
            (
                """Alert {alert_id} is set for {symbol} {direction} {threshold}, until {expires}.
                I will watch {symbol}; alert {alert_id} runs until {expires}.
                Done, {alert_id} fires when {symbol} is {direction} {threshold}.""",
                """提醒{alert_id}已设置：{symbol}{direction}{threshold}，有效期至{expires}。
                已关注{symbol}，提醒{alert_id}到{expires}为止。
                好了，{symbol}{direction}{threshold}时{alert_id}会触发。""",
            ),
            ("too many alerts for {symbol}", "{symbol}的提醒过多"),
            ("Alert {alert_id}, expires {expires}", "提醒{alert_id}，{expires}到期"),
            (
                "threshold",
                (
                    "Set another one at {threshold}.\nSame for {threshold}, please.",
                    "再设一个{threshold}的。\n{threshold}也设一个。",
                ),
            ),
        ),
        Skill(
            "portfolio_value myPortfolio depot_total",
            ("Tell the total value of the user's portfolio", "查询用户投资组合的总市值"),
            ("tell the value of your portfolio", "查询投资组合市值"),
            (),
            lambda d, a: {"value": d.real(900, 90000), "best": d.code("@@@@")},
            (
                """What is my portfolio worth?
                Portfolio value
                How much are all my stocks worth together?
                Could you tell me the value of my portfolio?
                Be honest, am I rich yet? What is my portfolio worth?
                Check my portfolio, please.
                What do my investments add up to?""",
                """我的投资组合值多少钱？
                组合市值
                我所有股票加起来值多少？
                能告诉我投资组合的市值吗？
                说实话，我发财了吗？我的持仓值多少？
                请查一下我的持仓。
                我的投资总共有多少？""",
            ),
            (
                """Your portfolio is worth {value}; the best stock is {best}.
                It is worth {value}, with {best} as your best stock.
                All in all {value}, led by {best}.""",
                """您的投资组合市值{value}，表现最好的是{best}。
                总市值{value}，最佳个股{best}。
                合计{value}，领涨的是{best}。""",
            ),
            ("depot service is closed", "持仓服务已关闭"),
            None,
        ),
    ),
    (
        Chain(
            "find_symbol",
            "stock_quote",
            "symbol",
            "symbol",
            (
                """What does a share of {company} cost?
                Find the symbol of {company} and get the price.
                How is the stock of {company} doing today?
                I don't know the ticker, but what is the share price of {company}?""",
                """{company}的股票多少钱一股？
                查{company}的代码，再看股价。
                {company}的股票今天怎么样？
                我不知道代码，{company}现在的股价是多少？""",
            ),
        ),
    ),
)

_PARTY = Param("guests party_size people", "integer", ("Number of guests", "用餐人数"), lambda d: d.whole(2, 9))

RESTAURANTS = Family(
    "restaurants",
    ("a restaurant assistant\na dining guide\na table booking helper", "餐厅助手\n美食向导\n订座小助手"),
    ("finds good food and books tables\nhelps hungry people", "寻找美食并预订餐桌\n帮助想吃饭的人"),
    (
        Skill(
            "find_restaurant restaurantSearch places_to_eat",
            ("Find a restaurant of a cuisine in a city", "查找某城市某菜系的餐厅"),
            ("find restaurants", "查找餐厅"),
            (
                Param("cuisine food_type", "string", ("Kind of cooking", "菜系"), lambda d: d.of("cuisine")),
                Param("city town area", "string", ("City", "城市"), lambda d: d.of("city")),
                switch(
                    "outdoor terrace",
                    ("Whether seats outside are needed", "是否需要户外座位"),
                    ("We want to sit outside.\nIt needs outdoor seats.", "要有户外座位。\n我们想坐室外。"),
                ),
            ),
            lambda d, a: {
                "restaurant_id": d.code("RS###"),
                "name": d.business("restaurant"),
                "rating": d.real(3, 4.9, 1),
            },
            (
                """Where can I get {cuisine} food in {city}?
                {cuisine} restaurant {city}
                I'd love some {cuisine} food tonight, I'm in {city}.
                Could you find a {cuisine} restaurant in {city}?
                My parents are visiting {city} and like {cuisine} food. Any ideas?
                Look for {cuisine} cooking in {city}.""",
                """{city}哪里能吃{cuisine}？
                {city} {cuisine}餐厅
                今晚想吃{cuisine}，我在{city}。
                能找一家{city}的{cuisine}餐厅吗？
                父母来{city}玩，喜欢吃{cuisine}，有推荐吗？
                在{city}找{cuisine}。""",
            ),
            (
                """Try {name} (id {restaurant_id}), rated {rating}.
                {name} in {city} is rated {rating}; its id is {restaurant_id}.
                I found {name} with {rating} points, id {restaurant_id}.""",
                """推荐{name}（编号{restaurant_id}），评分{rating}。
                {city}的{name}评分{rating}，编号{restaurant_id}。
                找到{name}，{rating}分，编号{restaurant_id}。""",
            ),
            ("no {cuisine} restaurant in {city}", "{city}没有{cuisine}餐厅"),
            None,
            ("cuisine", ("And {cuisine} food?\nWhat about {cuisine} food?", "那{cuisine}呢？\n有{cuisine}吗？")),
        ),
        Skill(
            "reserve_table tableBooking book_dinner",
            ("Reserve a table in a restaurant by its id", "按餐厅编号预订餐桌"),
            ("reserve tables", "预订餐桌"),
            (
                Param(
                    "restaurant_id venue place_id",
                    "string",
                    ("Restaurant id like RS123", "餐厅编号，如RS123"),
                    lambda d: d.code("RS###"),
                ),
                _PARTY,
                Param("date day", "string", ("Date, YYYY-MM-DD", "日期，YYYY-MM-DD"), lambda d: d.date()),
                Param(
                    "time hour",
                    "string",
                    ("Time, HH:MM", "时间，HH:MM"),
                    lambda d: f"{d.whole(11, 21)}:{15 * d.whole(1, 3)}",
                ),
            ),
            lambda d, a: {"table": d.whole(10, 60), "confirmation": d.code("C-####")},
            (
                """Reserve a table for {guests} at {restaurant_id} on {date} at {time}.
                {restaurant_id}, {guests} people, {date}, {time}
                We are {guests} people and want to eat at {restaurant_id} on {date}, {time}.
                Could you book {restaurant_id} for {guests} guests on {date} at {time}?
                It's my birthday! Book a table at {restaurant_id} for {guests} on {date} at {time}.
                On {date} at {time} I need a table for {guests} in restaurant {restaurant_id}.""",
                """在{restaurant_id}预订{date} {time}的{guests}人桌。
                {restaurant_id}，{guests}人，{date}，{time}
                我们{guests}个人想{date} {time}去{restaurant_id}吃饭。
                能订一下{restaurant_id}吗？{guests}位，{date} {time}。
                我过生日！订{restaurant_id}，{guests}人，{date} {time}。
                {date} {time}我需要餐厅{restaurant_id}的{guests}人桌。""",
            ),
            (
                """Table {table} is reserved for {guests} on {date} at {time}, code {confirmation}.
                Your table {table} is booked; the confirmation is {confirmation}.
                Confirmed as {confirmation}: table {table}, {date} at {time}.""",
                """已预订{date} {time}的{table}号桌（{guests}人），确认码{confirmation}。
                {table}号桌订好了，确认码{confirmation}。
                预订{confirmation}已确认：{table}号桌，{date} {time}。""",
            ),
            ("{restaurant_id} has no table on {date} at {time}", "{restaurant_id}在{date} {time}没有空桌"),
            ("Table {table}, confirmation {confirmation}", "{table}号桌，确认码{confirmation}"),
            (
                "time",
                (
                    "Book another table there at {time}.\nAnd one more at {time}.",
                    "{time}再订一桌。\n同样的{time}再来一桌。",
                ),
            ),
        ),
        Skill(
            "show_menu menuOfDay todays_menu",
            ("Show today's special dish of a restaurant", "查询餐厅今日特色菜"),
            ("show today's special of a restaurant", "查询餐厅今日特色菜"),
            (
                Param(
                    "restaurant restaurant_name",
                    "string",
                    ("Restaurant name", "餐厅名称"),
                    lambda d: d.business("restaurant"),
                ),
            ),
            lambda d, a: {"special": d.of("dish"), "price": d.real(6, 39, 1)},
            (
                """What's on the menu at {restaurant} today?
                Menu {restaurant}
                What is the special at {restaurant}?
                Could you show me today's menu of {restaurant}?
                I'm starving! What does {restaurant} serve today?
                Please check what {restaurant} cooks today.""",
                """{restaurant}今天有什么菜？
                {restaurant}菜单
                {restaurant}今日特色是什么？
                能看看{restaurant}今天的菜单吗？
                饿坏了！{restaurant}今天供应什么？
                请查一下{restaurant}今天做什么菜。""",
            ),
            (
                """Today {restaurant} serves {special} for {price}.
                The special at {restaurant} is {special}, {price}.
                You can have {special} for {price} there.""",
                """{restaurant}今天供应{special}，{price}元。
                {restaurant}的特色是{special}，{price}元。
                那里今天有{special}，{price}元。""",
            ),
            ("{restaurant} is closed today", "{restaurant}今日休息"),
            ("Special: {special}, {price}", "特色：{special}，{price}元"),
            (
                "restaurant",
                ("And at {restaurant}?\nWhat about {restaurant}?", "那{restaurant}呢？\n{restaurant}有什么？"),
            ),
        ),
        Skill(
            "order_food foodDelivery deliver_meal",
            ("Order dishes to be delivered to an address", "点餐并配送到指定地址"),
            ("order food to your door", "点外卖"),
            (
                Param("dishes items meals", "array", ("Dishes to order", "要点的菜"), lambda d: d.some("dish", 2, 3)),
                Param("address deliver_to", "string", ("Street and number", "街道和门牌号"), lambda d: d.address()),
            ),
            lambda d, a: {"minutes": d.whole(15, 80), "total": d.real(14, 90)},
            (
                """Order {dishes} to {address}.
                {dishes}, deliver to {address}
                I'd like {dishes} delivered to {address}.
                Could you bring {dishes} to {address}?
                Too tired to cook. Send {dishes} to {address}.
                We're at {address} and hungry: {dishes}, please.""",
                """点{dishes}，送到{address}。
                {dishes}，送{address}
                我想要{dishes}，送到{address}。
                能送{dishes}到{address}吗？
                累得不想做饭，来{dishes}，送到{address}。
                我们在{address}，饿了，要{dishes}。""",
            ),
            (
                """Your food arrives at {address} in {minutes} minutes and costs {total}.
                Ordered: delivery in {minutes} minutes, total {total}.
                The total is {total}; expect the meal in {minutes} minutes.""",
                """餐品{minutes}分钟后送到{address}，共{total}元。
                已下单，{minutes}分钟送达，合计{total}元。
                一共{total}元，约{minutes}分钟送到。""",
            ),
            ("no delivery to {address}", "无法配送到{address}"),
            None,
        ),
    ),
    (
        Chain(
            "find_restaurant",
            "reserve_table",
            "restaurant_id",
            "restaurant_id",
            (
                """Find a {cuisine} restaurant in {city} and reserve a table for {guests} on {date} at {time}.
                We are {guests} people who want {cuisine} food in {city} on {date} at {time}. Find a place and book it.
                Book any {cuisine} restaurant in {city}: {date}, {time}, {guests} guests.
                Look for {cuisine} cooking in {city}, then get us a table for {guests} on {date} at {time}.""",
                """在{city}找一家{cuisine}餐厅，订{date} {time}的{guests}人桌。
                我们{guests}个人{date} {time}想在{city}吃{cuisine}，找一家订位。
                {city}随便哪家{cuisine}餐厅都行，订{date} {time}，{guests}位。
                查找{city}的{cuisine}，然后预订{date} {time}的{guests}人桌。""",
            ),
        ),
    ),
)

FAMILIES = (ORDERS, BANKING, STOCKS, RESTAURANTS)

"""Make the quickstart's reviews: train, validation and test CSV files and a WordPiece vocabulary.

Responsible for the phrases, how they are put together and which of them only held-out rows may use.
Tokenizing, packing and training belong to jaxbert itself.

    python scripts/make_reviews.py [--output configs/reviews]

The same code gives the same bytes. Of every list of phrases one part is kept for validation and one for test; the
topics gym and museum occur in validation and test alone.
"""

import argparse
import csv
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SEED = 7
SIZES = {"train": 2000, "validation": 300, "test": 300}
HARD = 0.10  # share of rows whose words alone do not show the label: contrast and negation
NEW = 0.3  # chance that a held-out row uses a phrase that training never has, if there is a choice
HELD_OUT_TOPICS = {"gym": "validation", "museum": "test"}
TOPIC_SHARE = 0.12  # share of held-out rows
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST_PIECE, SHARED_BY = 5, 6  # letters of a piece; different words that share it
SUBJECT = {"en": 8, "zh": 2}  # letters that show the subject of a reason
MARKS = {"v": "verdict", "c": "closing", "not": "not"}
CHINESE_PUNCTUATION = "，。！？；：、“”‘’（）《》〈〉【】「」『』…—～·￥"

Phrases = dict[tuple[str, str, str], list[str]]  # by language, topic, kind

# A section is one language and topic with its names, or one language's shared phrases; "/" separates phrases, and
# indented lines continue the line before. The last eighth of a list is for test, the eighth before it for validation.
# {n} names the topic, {o} is an opening, {a} and {b} are reasons, {v} a judgement and {c} a closing that agree with the
# label, {x} is a reason against it, {not} a judgement by negation.
PHRASES = """
[en shared]
frame: {o} {a}, and {b}. {v}. / {a}. {b}. {v}! / {v}, because {a} and {b}. / {o} {v}. {a}. / {a}; {b}. {c}
  "{v}," my sister told me, and she was right: {a}. / {o} {a}. {c} / In short, {v}. {c} / {v}. {a}! {c} / {o} {a}.
  Two things about this {n}: {a}, and {b}. / My wife says, "{v}." I agree, {a}. / {v} (and yes, {a}). / {o} {c}
  A short note after some time with this {n}: {a}. {v}. / I rarely write reviews, but {v}. {a}. / {c} {a}, {b}.
  To be fair, others may disagree, yet {v}. {b}. / For anyone who is thinking about this {n}: {v}. {a}.
  What I remember most is that {a}. {c} / You asked, so here it is: {a}, {b}. {v}.
hard: although {x}, {a}. {v}. / {o} {x}, but {a}, so in the end {v}. / {x}. Still, {a}, and {v}. / Yes, {x}; but {v}.
  I had heard that {x}. That may be, but {a}. {c} / My friend says that {x}. I only know that {a}.
  {x}, I admit. Even so, {v}. / {o} {not}. / {o} {a}. {not}. / {not}, really. {a}. / "{not}," as my father likes to say.
  {not}. {o} / Even though {x}, {not}. / Despite what some people write, {not}. {a}.
  {x}. That is one side; on the other, {a}, and {v}. / In the end {not}, even if {x}.
good verdict: I would recommend this {n} to anyone / I am glad I chose it / it was better than I had hoped
  this is the best {n} I have found in years / it is excellent value for the money / I am very pleased / it made my week
  it deserves five stars / it was a wonderful experience / I am really impressed / it was a delight from start to finish
  everything was just right / I am a happy customer / it is a pleasure every time / this {n} has earned my trust
  this {n} was a lovely surprise / I love this {n} / we were delighted / this {n} is worth every penny / we loved it
  this {n} is simply great / I enjoyed every minute / it was fantastic / it is superb
  this {n} was a wonderful surprise / I am very glad I chose this {n} / everything about it is superb
  I am delighted with this {n} / this {n} is simply fantastic / we loved every minute
bad verdict: I would warn anyone about this {n} / I am sorry I chose it / it was worse than I had feared
  this is the worst {n} I have found in years / it is far too expensive for what you get / I am very disappointed
  it ruined my week / it deserves one star / it was a terrible experience / I am really annoyed
  it was a mess from start to finish / nearly everything went wrong / I am an angry customer / it is a pain every time
  this {n} has lost my trust / this {n} was a nasty surprise / I hate this {n} / we were upset
  this {n} is a waste of money / we hated it / this {n} is simply awful / I regretted every minute / it was horrible
  it is dreadful / this {n} was a terrible surprise / I am very sorry I chose this {n} / everything about it is dreadful
  I am upset with this {n} / this {n} is simply horrible / we hated every minute
good not: it could hardly be better / you will not regret it / there was nothing I disliked / I was never disappointed
  it is anything but boring or bad / it was never a waste / I cannot say a bad word about it / it does not disappoint
  it was not bad at all / I have nothing to complain about / there is nothing bad about it
  I was not disappointed at all
bad not: it could hardly be worse / you will not enjoy it / there was nothing I liked / I was never impressed
  it is anything but pleasant or good / it was never a pleasure / I cannot say a good word about it
  it does not impress / it was not good at all / I have nothing nice to say about it / there is nothing good about it
  I was not impressed at all
good closing: I have told all my friends. / Thank you so much! / Highly recommended. / Keep up the good work!
  Ten out of ten. / Worth it. / Well done! / I am still smiling. / Brilliant. / I am very happy. / Five stars.
bad closing: I want my money back. / Stay away. / Not recommended. / Change something! / Zero out of ten.
  Save your money. / What a shame. / I am still angry. / Never again. / I am very angry. / One star.
[zh shared]
frame: {o}{a}，{b}。{v}。 / {a}，而且{b}，{v}！ / {v}，因为{a}，{b}。 / {o}{v}，{a}。 / {a}；{b}。{c} / {o}{a}。{c}
  “{v}”，姐姐这样跟我说，确实如此：{a}。 / 总的来说，{v}。{c} / {v}！{a}，{c} / {o}{a}。 / 说两点：{a}，{b}。
  用一句话说这{n}：{v}。{a}。 / {o}{c} / 家人都说“{v}”，我也这么看，{a}。 / {v}（另外，{a}）。 / {c}{a}，{b}。
  很少写评价，这次必须说：{v}。{a}。 / 给还在考虑这{n}的朋友：{v}，{a}。 / 印象最深的是{a}。{c} / 先说结论：{v}；{b}。
hard: 虽然{x}，但是{a}，{v}。 / {o}{x}，不过{a}，最后还是觉得{v}。 / {x}，然而{a}，{v}。 / 尽管{x}，{v}。
  都说{x}，可我觉得{a}。{c} / {o}{not}。 / {o}{a}，{not}。 / {not}，真的，{a}。 / 朋友说{x}，我只知道{a}。
  {x}是事实，可{not}。 / {not}。{o} / 即使{x}，{not}。 / 有人说{x}，我倒觉得{a}，{v}。
good verdict: 非常满意 / 强烈推荐这{n} / 物超所值 / 比想象中好得多 / 体验非常愉快 / 整体很棒 / 这{n}是我见过最好的
  很庆幸选了它 / 一家人都很开心 / 这钱花得值 / 样样都合心意 / 好得没话说 / 我给满分 / 这{n}太赞了 / 相当出色 / 特别开心
  完美 / 大家都夸好 / 真的很喜欢 / 这{n}值得五星 / 让人惊喜 / 真心喜欢这{n} / 这{n}真的很棒 / 非常喜欢这{n} / 整体非常好
  这{n}让人非常满意 / 全家人都很喜欢 / 真的值得
bad verdict: 非常失望 / 劝大家避开这{n} / 完全不值这个价 / 比想象中差得多 / 体验非常糟糕 / 整体很差
  这{n}是我见过最差的 / 很后悔选了它 / 一家人都很扫兴 / 这钱白花了 / 处处都出问题 / 差得没法说 / 我给零分 / 这{n}太坑了
  相当糟心 / 特别后悔 / 一塌糊涂 / 大家都骂差 / 真的很讨厌 / 这{n}只配一星 / 让人生气 / 真心讨厌这{n} / 这{n}真的很差
  非常讨厌这{n} / 整体非常糟 / 这{n}让人非常失望 / 全家人都很讨厌 / 真的不值
good not: 没什么可抱怨的 / 从来没有让我失望 / 找不到不喜欢的地方 / 并不像别人说的那么糟糕 / 绝对不会后悔 / 真的不算差
  挑不出毛病 / 没有一处让人失望 / 一点都不差 / 不能再好了 / 没让我失望过 / 不会让人后悔
bad not: 没什么可称赞的 / 从来没有让我满意 / 找不到喜欢的地方 / 并不像别人说的那么好 / 绝对不会推荐 / 真的不算好
  挑不出优点 / 没有一处让人满意 / 一点都不好 / 不能再差了 / 没让我满意过 / 不会让人喜欢
good closing: 还会选。 / 推荐给朋友了。 / 谢谢你们！ / 以后还选它。 / 继续加油！ / 值得一试。 / 必须点赞！ / 爱了爱了。
  五星好评！ / 好评！ / 大力推荐！ / 给五星！
bad closing: 不会再选。 / 要求退款！ / 别浪费钱。 / 以后不选了。 / 请尽快改进！ / 千万别试。 / 太让人寒心。 / 拉黑了。
  一星差评！ / 差评！ / 绝不推荐！ / 给一星！
[en hotel] hotel / resort / inn / guesthouse
open: We stayed two nights in spring. / I was here for a trade fair. / We booked a double room. / We arrived late.
good: the staff at the front desk were friendly and helpful / our room was quiet, bright and very clean
  breakfast was generous, with warm bread and fresh fruit / the view over the harbour was beautiful
  check-in took less than five minutes / the shower was hot and strong / the bed was soft and the sheets smelled fresh
  the room was clean and breakfast fresh / the rooms are clean and the staff kind
bad: the staff at the front desk were rude and slow / the walls were so thin that we heard every word next door
  breakfast was cold and almost nothing was left / the air conditioning was broken all night
  we waited an hour to check in / the shower was cold and the drain blocked
  the carpet was dirty and the room smelled of smoke / the room was dirty and breakfast cold
  the rooms are dirty and the staff rude
[zh hotel] 家酒店 / 家宾馆 / 家民宿 / 家旅馆
open: 出差住了两晚。 / 带父母来旅游，订了两间房。 / 半夜才到店。 / 第一次住这里。
good: 床很软，睡得很香 / 前台热情，办理入住很快 / 早餐种类丰富，味道也好 / 窗外的海景很美 / 离地铁站很近，出门方便
  免费给我们升级了房间 / 房间干净又安静 / 早餐好吃，床也软 / 房间干净，服务热情
bad: 床太硬，一夜没睡好 / 前台冷淡，办理入住等了很久 / 早餐冷冰冰的，没几样能吃 / 空调坏了也没人修
  离地铁站很远，出门不便 / 莫名其妙多收了钱 / 房间又脏又吵 / 早餐难吃，床也硬 / 房间很脏，服务冷淡
[en restaurant] restaurant / diner / bistro / noodle house
open: We came here for my birthday. / We had a table for six. / I stopped here for lunch. / It was a busy Friday.
good: the soup was rich and full of flavour / our waiter was friendly and quick
  the fish was fresh and perfectly cooked / the portions were large and the prices fair
  the dessert was the best part of the evening / the noodles were tender and tasty / the room felt warm and cosy
  the soup was fresh and the waiter friendly / the food was fresh and the service quick
bad: the soup was thin and had no taste / our waiter was rude and forgot our drinks / the fish was dry and smelled old
  the portions were tiny and the prices silly / the dessert was frozen in the middle / the noodles were cold and sticky
  the room was loud and freezing / the soup was cold and the waiter rude / the food was cold and the service slow
[zh restaurant] 家餐厅 / 家饭馆 / 家小店 / 家面馆
open: 周末和朋友聚餐。 / 生日特意订了位。 / 路过进来吃午饭。 / 晚上七点，人很多。
good: 汤很鲜，料也足 / 鱼很新鲜，火候刚好 / 分量大，价格实惠 / 甜点好吃得停不下来 / 环境温馨，适合聊天
  牛肉嫩，面条劲道 / 服务员热情，上菜很快 / 鱼很鲜，环境也好 / 菜很新鲜，味道很好
bad: 汤像白水，没有味道 / 鱼不新鲜，一股腥味 / 分量小，价格还贵 / 甜点硬得咬不动 / 环境吵闹，桌子油腻 / 吃完回家拉肚子
  服务员爱理不理，上菜很慢 / 鱼很腥，环境也差 / 菜不新鲜，味道很差
[en book] book / novel / story / paperback
open: I read it on the train. / Our reading group chose this one. / It was a gift from my aunt. / It has 400 pages.
good: the characters felt real and I cared about them / the plot kept me awake until three in the morning
  the language is clear and often funny / the ending moved me to tears of joy / every chapter taught me something useful
  I finished it in one sitting / the pictures are beautiful and well printed
  the plot is clear and the language beautiful / the story is clever and touching
bad: the characters were flat and I forgot their names / the plot put me to sleep by page thirty
  the language is clumsy and full of mistakes / the ending made no sense / every chapter repeats the one before
  I gave up half way / the pictures are blurred and badly printed / the plot is boring and the language clumsy
  the story is dull and confusing
[zh book] 本书 / 本小说 / 本教材 / 本文集
open: 在高铁上读完的。 / 读书会选了它。 / 朋友送的生日礼物。 / 全书大概四百页。
good: 人物鲜活，让人牵挂 / 情节紧凑，舍不得放下 / 语言流畅，幽默有趣 / 结尾感人，余味悠长 / 印刷精美，纸张很好
  内容有趣，文笔流畅 / 每一章都有收获 / 情节有趣，结尾感人 / 翻译准确，读着舒服
bad: 人物单薄，看完就忘 / 情节拖沓，读得直犯困 / 语言生硬，错字连篇 / 结尾莫名其妙，草草收场 / 印刷模糊，还掉页
  内容无聊，文笔生硬 / 每一章都在重复 / 情节无聊，结尾生硬 / 翻译混乱，读着难受
[en phone] phone / handset / tablet / device
open: I bought it last month. / It replaces my five-year-old model. / I use it for work. / Ordered the blue one, 128 GB.
good: the battery easily lasts two days / the camera takes sharp and beautiful pictures
  it is fast, even with many apps open / it feels light and solid in the hand / charging takes only half an hour
  setting it up was quick and easy / the screen is bright and clear / the camera is sharp and the battery solid
  the sound is clear and the screen bright
bad: the battery is dead by noon / the camera takes blurred and grey pictures / it is slow, even with one app open
  it feels cheap and gets hot in the hand / charging takes the whole night / setting it up was slow and confusing
  the screen is dim and scratches at once / the camera is slow and the battery poor
  the sound is poor and the screen dim
[zh phone] 款手机 / 台平板 / 部手机 / 款机器
open: 上个月买的。 / 换掉了用了五年的旧手机。 / 主要是工作用。 / 买的蓝色，128GB。
good: 电池耐用，两天一充 / 拍照清晰，颜色漂亮 / 运行流畅，开很多App也不卡 / 手感轻巧，做工扎实 / 充电快，半小时就满
  WiFi信号稳定 / 屏幕明亮，看着舒服 / 充电快，拍照清晰 / 运行很快，屏幕清晰
bad: 电池不耐用，半天就没电 / 拍照模糊，颜色发灰 / 运行卡顿，开一个App都慢 / 手感廉价，发热严重 / 充电慢，一晚上才满
  WiFi老是断线 / 屏幕昏暗，看着难受 / 充电慢，拍照模糊 / 运行很慢，屏幕模糊
[en film] film / movie / drama / comedy
open: We saw it on the opening night. / I watched it with my parents. / It runs for two hours. / It is dubbed.
good: the acting was honest and moving / the music was beautiful and fitted every scene
  I laughed from the first minute / the whole room clapped at the end / the pictures were a joy to look at
  my children loved it / the story was fresh and full of surprises / the music was fresh and the acting honest
  the acting was great and the story moving
bad: the acting was wooden and false / the music was loud and spoiled every scene / I was bored from the first minute
  half of the room left before the end / the pictures were dark and shaky / my children hated it
  the story was stale and full of holes / the music was stale and the acting wooden
  the acting was poor and the story boring
[zh film] 部电影 / 部片子 / 部喜剧 / 部剧
open: 首映那天看的。 / 陪爸妈一起看的。 / 片长两个小时。 / 看之前什么都不知道。
good: 演技自然，感情真挚 / 配乐动听，很有气氛 / 散场时全场鼓掌 / 剧情新鲜，处处是惊喜 / 画面精美，每一帧都好看
  孩子还想再看一遍 / 从头笑到尾 / 画面漂亮，配乐动听 / 剧情感人，演技出色
bad: 演技浮夸，感情虚假 / 配乐刺耳，破坏气氛 / 没散场就走了一半人 / 剧情老套，漏洞百出 / 画面昏暗，晃得头晕
  孩子看到一半睡着了 / 从头闷到尾 / 画面模糊，配乐刺耳 / 剧情无聊，演技浮夸
[en delivery] delivery service / courier / shop / online store
open: I ordered on Monday. / The parcel came from abroad. / It was a present for my mother. / Order no. 2, same seller.
good: the parcel arrived a day early / the driver was polite and carried it upstairs
  the tracking was exact to the minute / a missing part was replaced at once / support answered within an hour
  the refund came quickly and without questions / everything was packed with care
  the driver was friendly and support quick / the delivery was fast and the driver friendly
bad: the parcel arrived two weeks late / the driver was rude and left it in the rain
  the tracking never showed anything / a missing part was never replaced / support ignored all of my letters
  the refund never came / everything was crushed and wet / the driver was slow and support rude
  the delivery was slow and the driver rude
[zh delivery] 家快递 / 家店铺 / 家网店 / 次配送
open: 周一下的单。 / 从国外寄来的包裹。 / 给妈妈买的礼物。 / 第二次下单。
good: 包装仔细，一点没坏 / 快递员有礼貌，还帮忙搬上楼 / 物流信息准确，随时能查 / 少了配件，马上补发 / 客服耐心，回复很快
  退款爽快，当天到账 / 提前一天就送到了 / 客服热情，送得快 / 送得很快，包装仔细
bad: 包装破烂，东西全压坏了 / 快递员态度恶劣，扔在门口就走 / 物流信息不动，根本查不到 / 少了配件，没人补发
  客服敷衍，一直不回复 / 退款拖了一个月 / 晚了两个星期才送到 / 客服冷淡，送得慢 / 送得很慢，包装破烂
[en headphones] headset / pair of headphones / speaker / pair of earphones
open: I wear it on the bus. / It was on sale. / I compared four models first. / I use it for calls and music.
good: it is so comfortable that I forget it is there / the bass is deep without being loud
  it connects at once, every time / people hear me well on calls / the case is small and well made
  after a year it still works like new / the sound is warm and clear / the bass is warm and the case well made
  the sound is great and it feels comfortable
bad: it is so tight that my ears hurt / the bass rattles and buzzes / it loses the connection every few minutes
  nobody hears me on calls / the case is bulky and badly made / after a month one side was dead
  the sound is thin and harsh / the bass is thin and the case badly made / the sound is awful and it feels tight
[zh headphones] 副耳机 / 款耳机 / 个音箱 / 款音响
open: 坐公交时用的。 / 打折时买的。 / 对比了四款才下单。 / 平时打电话、听歌用。
good: 戴着舒服，几乎没有感觉 / 低音有力又不吵 / 连接很快，从不断线 / 通话清楚 / 盒子小巧，方便携带 / 音质很好，做工扎实
  音质温暖，细节清楚 / 低音清楚，戴着轻巧 / 用了一年还像新的
bad: 戴着很紧，耳朵疼 / 低音发闷，还有杂音 / 连接很慢，几分钟断一次 / 通话听不清 / 盒子笨重，携带不便
  音质很差，做工粗糙 / 音质刺耳，细节模糊 / 低音模糊，戴着笨重 / 用了一个月就坏了一边
[en course] course / class / workshop / lesson
open: I took it in the evenings. / There were twelve of us. / It has ten lessons. / My company paid for it.
good: the teacher was patient and explained every step / the exercises were useful and fun
  I learned more than in a year / the slides were clear and well ordered / the pace was just right for beginners
  it helped me to find a better job / questions were answered the same day
  the slides were useful and the exercises fun / the teacher was kind and the lessons clear
bad: the teacher was impatient and skipped every hard step / the exercises were useless and boring
  I learned nothing new / the slides were messy and out of date / the pace was hopeless for beginners
  it cost me my weekends for nothing / questions were ignored for weeks
  the slides were useless and the exercises boring / the teacher was rude and the lessons confusing
[zh course] 门课 / 个课程 / 个培训班 / 节课
open: 晚上下班后学的。 / 班里一共十二个人。 / 一共十节课。 / 公司报销的。
good: 练习实用，又有意思 / 学到了很多东西 / 提问当天就有回答 / 课件清晰，条理分明 / 进度适合初学者
  学完找到了更好的工作 / 老师耐心，讲解清楚 / 课件清楚，练习有趣 / 老师热情，讲得有趣
bad: 练习没用，又很无聊 / 什么都没学到 / 提问几周没人回答 / 课件混乱，内容过时 / 进度太乱，初学者跟不上 / 白白浪费了周末
  老师急躁，难点全跳过 / 课件混乱，练习无聊 / 老师冷淡，讲得无聊
[en cafe] cafe / coffee shop / bakery / tea house
open: I work round the corner. / We came in out of the rain. / I ordered a coffee and a cake. / It opened in May.
good: the coffee was strong and smooth / the cake was fresh, light and not too sweet / the barista always smiles
  the music is soft and pleasant / the tables are clean and the light is good / the bread is warm from the oven
  the chairs are comfortable / the cake was fresh and the music soft / the coffee was great and the cake fresh
bad: the coffee was weak and bitter / the cake was stale, heavy and far too sweet / the barista never smiles
  the music is loud and unpleasant / the tables are sticky and the light is bad / the bread is hard as stone
  the chairs are broken / the cake was stale and the music loud / the coffee was cold and the cake stale
[zh cafe] 家咖啡馆 / 家咖啡店 / 家面包店 / 家茶馆
open: 公司就在附近。 / 下雨进来躲雨。 / 点了咖啡和蛋糕。 / 五月新开的。
good: 咖啡香浓，口感顺滑 / 座位舒服，适合看书 / 店员总是笑眯眯的 / 音乐轻柔好听 / 桌面干净，采光好
  面包刚出炉，又香又软 / 蛋糕新鲜，甜度刚好 / 面包香软，店员热情 / 咖啡很香，蛋糕好吃
bad: 咖啡寡淡，还发苦 / 座位破旧，坐着难受 / 店员总是板着脸 / 音乐吵得头疼 / 桌面黏糊糊的，光线昏暗 / 面包又冷又硬
  蛋糕不新鲜，甜得发腻 / 面包难吃，店员冷淡 / 咖啡很苦，蛋糕难吃
[en gym] gym / pool
open: I joined in January. / I train three times a week.
good: the changing rooms are clean and bright / the trainers are friendly and patient / the machines work well
bad: the changing rooms are dirty and smell bad / the trainers are rude and impatient / the machines are broken
[zh gym] 家健身房 / 个游泳馆
open: 一月份办的卡。 / 每周来三次。
good: 更衣室干净明亮 / 教练耐心又热情 / 器材很新，用着舒服
bad: 更衣室又脏又臭 / 教练冷淡又急躁 / 器材破旧，一半是坏的
[en museum] museum / gallery
open: We went on a Sunday. / I visited with my class.
good: the tickets are fair value / the guide was patient, funny and kind
  the rooms were bright and full of beautiful things
bad: the tickets are far too expensive / the guide was impatient, dull and rude / the rooms were dark, loud and dirty
[zh museum] 个博物馆 / 个展览
open: 周日去的。 / 跟班里同学一起参观。
good: 展厅明亮，环境安静 / 讲解员热情，讲得有趣 / 门票实惠，很有收获
bad: 展厅昏暗，环境吵闹 / 讲解员冷淡，讲得无聊 / 门票太贵，没什么收获
"""


def parse_phrases(text: str) -> Phrases:
    """Read the phrases as {(language, topic, kind): phrases}."""
    phrases: Phrases = {}
    language = topic = kind = ""
    for line in filter(None, text.splitlines()):
        if line.startswith("["):
            section, line = line[1:].split("]")
            (language, topic), kind = section.split(), "name"
        elif not line.startswith(" "):
            kind, line = line.split(":", 1)
        parts = [part.strip() for part in line.split(" / ") if part.strip()]
        phrases.setdefault((language, topic, kind), []).extend(parts)
    return phrases


def divide(topic: str, texts: list[str]) -> dict[str, list[str]]:
    """Return the phrases of each split; held-out splits may also use those of train."""
    owner = HELD_OUT_TOPICS.get(topic)
    if owner:
        return {split: texts if split == owner else [] for split in SIZES}
    part = max(1, len(texts) // 8)
    return {"train": texts[: -2 * part], "validation": texts[-2 * part : -part], "test": texts[-part:]}


class Composer:
    """Writes reviews for one split, and records whether a review has a phrase that train never has."""

    def __init__(self, split: str) -> None:
        self.split, self.rng = split, random.Random(f"{SEED} {split}")
        self.bank = {key: divide(key[1], texts) for key, texts in parse_phrases(PHRASES).items()}
        topics = sorted({topic for _, topic, _ in self.bank} - {"shared"})
        self.topics = [topic for topic in topics if topic not in HELD_OUT_TOPICS]
        self.new_topics = [topic for topic in topics if HELD_OUT_TOPICS.get(topic) == split]
        judging = [owned for (_, _, kind), owned in self.bank.items() if kind not in ("name", "open")]
        self.new = {text for owned in judging for text in owned[split] if split != "train"}

    def pick(self, language: str, topic: str, kind: str) -> str:
        owned = self.bank[language, topic, kind]
        own = not owned["train"] or self.rng.random() < NEW
        return self.rng.choice(owned[self.split if own else "train"])

    def topic(self) -> str:
        return self.rng.choice(self.new_topics if self.new_topics and self.rng.random() < TOPIC_SHARE else self.topics)

    def reason(self, language: str, topic: str, tone: str, other: str, barred: str = "-") -> str:
        """Pick a reason that begins differently from `other`, which it would repeat or deny, and not with `barred`."""
        width = SUBJECT[language]
        while (text := self.pick(language, topic, tone))[:width] == other[:width] or re.match(barred, text):
            pass
        return text

    def review(self, language: str, label: str) -> tuple[str, bool]:
        """Write a text of this label; return it, and whether it has a phrase that is not in train."""
        tone, against = ("good", "bad") if label == "positive" else ("bad", "good")
        topic = self.topic()
        frame = self.pick(language, "shared", "hard" if self.rng.random() < HARD else "frame")
        fields = {mark: self.pick(language, "shared", f"{tone} {kind}") for mark, kind in MARKS.items()}
        fields |= {"o": self.pick(language, topic, "open"), "a": self.pick(language, topic, tone), "n": "{n}"}
        fields["b"] = self.reason(language, topic, tone, fields["a"])
        fields["x"] = self.reason(language, topic, against, fields["a"], r"(I|we|my)\b")  # no "I had heard that I"
        used = {frame, *(fields[mark] for mark in re.findall(r"{(\w+)}", frame))}
        text = frame.format(**fields).format(n=self.pick(language, topic, "name"))
        text = re.sub(r'(^|[.!?] |")([a-z])', lambda match: match[1] + match[2].upper(), text)
        return text, not used.isdisjoint(self.new)


def compose_split(split: str, seen: set[str]) -> list[tuple[str, str]]:
    """Return a split's rows, half of each language and label, none of them in `seen`, to which they are added."""
    composer = Composer(split)
    rows = []
    while len(rows) < SIZES[split]:
        label = ("positive", "negative")[len(rows) // 2 % 2]
        text, is_new = composer.review(("en", "zh")[len(rows) % 2], label)
        if text not in seen and (is_new or split == "train"):
            seen.add(text)
            rows.append((text, label))
    composer.rng.shuffle(rows)
    return rows


def common_chinese() -> Iterator[str]:
    """Yield the 3,755 more common characters of GB 2312 (its first level)."""
    for high in range(0xB0, 0xD8):
        yield from bytes(byte for low in range(0xA1, 0xFF) for byte in (high, low)).decode("gb2312", errors="ignore")


def word_pieces(words: Iterable[str]) -> set[str]:
    """Return every word that occurs twice, and the beginnings, middles and ends that many different words share."""
    counts = Counter(words)
    pieces: Counter[str] = Counter()
    for word in counts:
        spans = [(i, j) for i in range(len(word)) for j in range(i + 2, len(word) + 1)]
        pieces.update({"##" * (i > 0) + word[i:j] for i, j in spans if j - i <= LONGEST_PIECE})
    shared = {piece for piece, count in pieces.items() if count >= SHARED_BY}
    return shared | {word for word, count in counts.items() if count >= 2}


def make_vocabulary(texts: list[str]) -> list[str]:
    """Return the vocabulary: special tokens, characters, pieces, for a greedy longest match.

    The trainer of `tokenizers` breaks ties by hash order, so two runs differ; this one always gives the same.
    """
    text = " ".join(texts).lower()
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [f"##{letter}" for letter in letters if letter.isdigit() or letter.islower()]
    seen = sorted(set(text) - {" "})
    words = sorted(word_pieces(re.findall(r"[a-z0-9]+", text)))
    return list(dict.fromkeys([*SPECIAL, *letters, *pieces, *CHINESE_PUNCTUATION, *common_chinese(), *seen, *words]))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])


def make_reviews(output: Path) -> None:
    """Write the three splits and `vocab.txt` into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    splits = {split: compose_split(split, seen) for split in SIZES}
    for split, rows in splits.items():
        write_csv(output / f"{split}.csv", rows)
    vocabulary = make_vocabulary([text for text, _ in splits["train"]])
    (output / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "configs" / "reviews"
    parser.add_argument("--output", type=Path, default=default, help="folder to write to")
    make_reviews(parser.parse_args().output)


if __name__ == "__main__":
    main()

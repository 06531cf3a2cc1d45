// @ts-check
// What our panels say, in the languages of the editor that we know.

/** @type {Record<string, Record<string, string>>} */
const TABLE = {
  en: {
    tokens: "{n} tokens",
    token: "1 token",
    chunks: "{n} chunks",
    chunk: "1 chunk",
    parts: "{n} parts",
    fill: "{n} of {capacity}",
    chunkBorder: "chunk {number}",
    spill: "{n} tokens spill into chunk {number}",
    spillOne: "1 token spills into chunk {number}",
    cut: "cut by a chunk's end: {words}",
    notFound: "embedding:{name} is ignored: {reason}",
    linked: "The text comes from another node; the tokens show when it has run.",
    empty: "Type a prompt to see its tokens.",
    layer: "layer {number} of {count}",
    layerSD2: "layer {number} of {count} (SD2's)",
    layerLoaded: "layer as loaded",
    layerAbsent: "layer {number} is not in the file",
    weight: "weight {weight}",
    id: "id {id}",
    vectors: "{n} vectors",
    vector: "1 vector",
    wrongWidth: "{width} wide: not for SD2",
    completionKeys: "Tab inserts, ↑↓ choose, Esc closes",
    unreachable: "No tokens: the server does not answer.",
    looking: "Looking at the file…",
    layers: "{n} of {count} layers",
    projection: "with projection",
    noProjection: "no projection",
    lastAbsent:
      "This file ends at layer {n}; SD2 needs no more, but layer {wanted}, chosen here, is not in it. Choose penultimate.",
    chooseInstead: "Choose instead:",
    noModel: "No model file was found. Put one into a models folder, then refresh (R).",
    also: "also in it: {parts}",
    failed: "This node failed",
    refused: "This node cannot run",
    moreMessages: "and {n} more",
  },
  zh: {
    tokens: "{n} 个词元",
    token: "1 个词元",
    chunks: "{n} 个分块",
    chunk: "1 个分块",
    parts: "{n} 个部分",
    fill: "{n} / {capacity}",
    chunkBorder: "分块 {number}",
    spill: "{n} 个词元溢出到分块 {number}",
    spillOne: "1 个词元溢出到分块 {number}",
    cut: "在分块末尾被截断：{words}",
    notFound: "embedding:{name} 被忽略：{reason}",
    linked: "文本来自另一个节点，运行后才能看到词元。",
    empty: "输入提示词即可查看词元。",
    layer: "第 {number} 层（共 {count} 层）",
    layerSD2: "第 {number} 层（共 {count} 层，SD2 默认）",
    layerLoaded: "使用加载时的层",
    layerAbsent: "文件中没有第 {number} 层",
    weight: "权重 {weight}",
    id: "编号 {id}",
    vectors: "{n} 个向量",
    vector: "1 个向量",
    wrongWidth: "宽度 {width}，不适用于 SD2",
    completionKeys: "Tab 插入，↑↓ 选择，Esc 关闭",
    unreachable: "无法显示词元：服务器没有响应。",
    looking: "正在查看文件…",
    layers: "{n} / {count} 层",
    projection: "含投影",
    noProjection: "无投影",
    lastAbsent: "此文件只到第 {n} 层；SD2 不需要更多，但这里选择的第 {wanted} 层不在其中。请选择 penultimate。",
    chooseInstead: "可改选：",
    noModel: "没有找到模型文件。请放入模型文件夹后刷新（R）。",
    also: "另含：{parts}",
    failed: "此节点运行失败",
    refused: "此节点无法运行",
    moreMessages: "另有 {n} 条",
  },
  ja: {
    tokens: "{n} トークン",
    token: "1 トークン",
    chunks: "{n} チャンク",
    chunk: "1 チャンク",
    parts: "{n} パート",
    fill: "{n} / {capacity}",
    chunkBorder: "チャンク {number}",
    spill: "{n} トークンがチャンク {number} にあふれます",
    spillOne: "1 トークンがチャンク {number} にあふれます",
    cut: "チャンクの終わりで分割：{words}",
    notFound: "embedding:{name} は無視されます：{reason}",
    linked: "テキストは別のノードから来ます。実行後に確認できます。",
    empty: "プロンプトを入力するとトークンが表示されます。",
    layer: "{count} 層中の第 {number} 層",
    layerSD2: "{count} 層中の第 {number} 層（SD2 標準）",
    layerLoaded: "読み込み時の層",
    layerAbsent: "第 {number} 層はファイルにありません",
    weight: "重み {weight}",
    id: "ID {id}",
    vectors: "{n} ベクトル",
    vector: "1 ベクトル",
    wrongWidth: "幅 {width}：SD2 用ではありません",
    completionKeys: "Tab で挿入、↑↓ で選択、Esc で閉じる",
    unreachable: "トークンを表示できません：サーバーが応答しません。",
    looking: "ファイルを調べています…",
    layers: "{n} / {count} 層",
    projection: "射影あり",
    noProjection: "射影なし",
    lastAbsent:
      "このファイルは第 {n} 層までです。SD2 にはそれで十分ですが、ここで選ばれた第 {wanted} 層はありません。penultimate を選んでください。",
    chooseInstead: "代わりに選べるもの：",
    noModel: "モデルファイルがありません。モデルフォルダーに置いて更新（R）してください。",
    also: "ほかに：{parts}",
    failed: "このノードは失敗しました",
    refused: "このノードは実行できません",
    moreMessages: "ほか {n} 件",
  },
};

/** The languages that have a table. */
export const LANGUAGES = Object.keys(TABLE);

/** The keys of a language, for checks. @param {string} language */
export function keysOf(language) {
  return Object.keys(TABLE[language] ?? {});
}

/**
 * A message in the language of `locale` ("zh-TW" falls back to "zh", others to English).
 * @param {string} locale
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 */
export function translate(locale, key, values = {}) {
  const language = locale.split(/[-_]/)[0];
  const text = TABLE[language]?.[key] ?? TABLE.en[key];
  if (text === undefined) throw new Error(`There is no message ${key}`);
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

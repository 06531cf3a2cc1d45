// What our scripts use of ComfyUI's frontend, old and new.

interface ComfyWidget {
  name: string;
  value: unknown;
  serialize?: boolean;
  disabled?: boolean;
  options?: { getOptionLabel?(value?: string | null): string; values?: unknown };
  margin?: number;
  callback?: ((...values: any[]) => unknown) | null;
}

interface ComfyDOMWidgetOptions {
  serialize: boolean;
  hideOnZoom: boolean;
  /** Read by frontends since 1.47. */
  hideInPanel: boolean;
  getMinHeight(): number;
  getMaxHeight(): number;
  getValue(): string;
  setValue(value: string): void;
}

interface ComfyNode {
  /** A number, a string in newer frontends. */
  id: number | string;
  type?: string;
  comfyClass?: string;
  graph?: { _nodes?: ComfyNode[] } | null;
  pos: [number, number];
  inputs?: { name: string }[];
  widgets?: ComfyWidget[];
  size: [number, number];
  computeSize(): [number, number];
  setSize(size: [number, number]): void;
  setDirtyCanvas?(foreground: boolean, background: boolean): void;
  isInputConnected(slot: number): boolean;
  getInputNode(slot: number): ComfyNode | null;
  addDOMWidget(
    name: string,
    type: string,
    element: HTMLElement,
    options: ComfyDOMWidgetOptions,
  ): ComfyWidget;
  onWidgetChanged?(name: string, value: unknown, before: unknown, widget: ComfyWidget): void;
  onAdded?(...values: any[]): void;
  onConfigure?(...values: any[]): void;
  onConnectionsChange?(...values: any[]): void;
  onExecuted?(...values: any[]): void;
  onSerialize?(...values: any[]): void;
  onRemoved?(...values: any[]): void;
}

interface SavedFile {
  filename: string;
  subfolder: string;
  type: string;
}

interface ComfyNodeErrors {
  errors?: {
    type?: string;
    message?: string;
    details?: string;
    extra_info?: { input_name?: string };
  }[];
}

interface ComfyNodeDef {
  name: string;
  input?: Partial<Record<"required" | "optional", Record<string, [unknown, { forceInput?: boolean }?]>>>;
  /** Read by frontends since 1.50: the names of all widgets in the order of saved values. */
  fallbackWidgetsValuesNames?: string[];
}

interface ComfySetting {
  id: string;
  category: string[];
  name: string;
  type: "boolean";
  defaultValue: boolean;
  onChange?(): void;
}

interface ComfyExtension {
  name: string;
  settings?: ComfySetting[];
  init?(): Promise<void> | void;
  setup?(): Promise<void> | void;
  beforeRegisterNodeDef?(nodeType: unknown, nodeDef: ComfyNodeDef): void;
  beforeConfigureGraph?(workflow: object): void;
  nodeCreated?(node: ComfyNode): void;
}

interface ComfyApp {
  graph: object;
  /** Absent in frontends without subgraphs. */
  rootGraph?: object;
  lastNodeErrors: Record<string, ComfyNodeErrors> | null;
  /** Absent in frontends of 2023. */
  extensionManager?: { setting?: { get(id: string): unknown } };
  registerExtension(extension: ComfyExtension): void;
}

interface ComfyEvents {
  execution_start: CustomEvent<unknown>;
  executed: CustomEvent<{ output?: { conditioning?: SavedFile[] } | null }>;
  execution_error: CustomEvent<{ node_id: string; exception_message: string }>;
}

interface ComfyApi {
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
  addEventListener<Name extends keyof ComfyEvents>(
    name: Name,
    listener: (event: ComfyEvents[Name]) => void,
  ): void;
}

declare module "*/scripts/app.js" {
  export const app: ComfyApp;
}

declare module "*/scripts/api.js" {
  export const api: ComfyApi;
}

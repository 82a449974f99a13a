declare const htm: {
  bind<Result>(
    h: (type: any, props: Record<string, any>, ...children: any[]) => Result,
  ): (strings: TemplateStringsArray, ...values: any[]) => Result | Result[];
};
export default htm;
